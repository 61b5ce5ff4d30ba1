"""The root of the error tree, its words, and errors that were stored."""

from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

import yaml
from pydantic import JsonValue

Language = Literal["en", "zh"]


class GenServeError(Exception):
    """Base of the tree. `params` must be exactly the names in `names`."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **params: JsonValue) -> None:
        if set(params) != set(self.names):
            raise TypeError(f"{type(self).__name__} takes {self.names}, not {tuple(params)}")
        self.params = params
        super().__init__(self.detail("en"))

    def title(self, language: Language) -> str:
        """The short text: what went wrong."""
        return _texts(language)[self.code]["error"].format_map(_shown(self.params))

    def detail(self, language: Language) -> str:
        """The long text: what was wrong and what would be right."""
        return _texts(language)[self.code]["detail"].format_map(_shown(self.params))

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which the same request may succeed, where that is known."""
        value = self.params.get("retry_after_s")
        return float(value) if isinstance(value, (int, float)) else None


def _shown(params: dict[str, JsonValue]) -> dict[str, str]:
    return {name: _show(value) for name, value in params.items()}


def _show(value: JsonValue) -> str:
    if isinstance(value, list):
        return ", ".join(_show(item) for item in value) or "-"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


@cache
def _texts(language: Language) -> dict[str, dict[str, str]]:
    path = Path(__file__).parents[1] / "texts" / f"{language}.yaml"
    texts: dict[str, dict[str, str]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return texts


def all_errors() -> dict[str, type[GenServeError]]:
    """Every error class by its code."""
    found: dict[str, type[GenServeError]] = {}
    pending: list[type[GenServeError]] = [GenServeError]
    while pending:
        cls = pending.pop()
        found[cls.code] = cls
        pending.extend(cls.__subclasses__())
    return found


def from_stored(code: str, params: dict[str, JsonValue]) -> GenServeError:
    """The error that a task ended with, as it was stored.

    A code that this version no longer knows (a task stored by an older one) is told as an
    internal error rather than not at all.
    """
    cls = all_errors().get(code)
    if cls is None or set(params) != set(cls.names):
        return GenServeError()
    return cls(**params)
