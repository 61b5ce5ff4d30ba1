"""From Pydantic's findings to our words: one line per field, in the caller's language.

Pydantic's own messages are English, name Python's types and repeat the input, so none is used.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from genserve.api.language import say
from genserve.errors import Language, ValidationFailed

M = TypeVar("M", bound=BaseModel)

KINDS = {
    "missing": "required",
    "extra_forbidden": "unknown_field",
    "int_type": "whole_number",
    "int_parsing": "whole_number",
    "int_from_float": "whole_number",
    "int_parsing_size": "whole_number",
    "float_type": "number",
    "float_parsing": "number",
    "finite_number": "number",
    "string_type": "text",
    "string_unicode": "bad_text",
    "bool_type": "boolean",
    "bool_parsing": "boolean",
    "list_type": "list",
    "tuple_type": "list",
    "model_type": "object",
    "model_attributes_type": "object",
    "dict_type": "object",
    "datetime_type": "time",
    "datetime_parsing": "time",
    "datetime_from_date_parsing": "time",
    "datetime_object_invalid": "time",
    "timezone_aware": "time",
}
LIMITS = {
    "greater_than_equal": ("least", "ge"),
    "less_than_equal": ("most", "le"),
    "string_too_long": ("too_long", "max_length"),
    "too_long": ("too_many", "max_length"),
}
MAX_NAME_CHARS = 64


class Problem(ValueError):
    """What a validator of ours finds: the name of a text of `language` and its parameters."""

    def __init__(self, text: str, **names: object) -> None:
        super().__init__(text)
        self.text = text
        self.names = names


def checked(
    model: type[M],
    content: Mapping[str, object],
    language: Language,
    *,
    synonyms: Mapping[str, str] | None = None,
) -> M:
    """`content` as a `model`. Raises `ValidationFailed` that names every wrong field.

    `synonyms` are other names for fields, for better hints about unknown ones.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        names = [field.alias or name for name, field in model.model_fields.items()]
        found = error.errors(include_url=False, include_input=False)
        raise ValidationFailed(
            problems=problems_of(found, language, names, synonyms or {})
        ) from None


def problems_of(
    errors: Iterable[Any],
    language: Language,
    names: Sequence[str] = (),
    synonyms: Mapping[str, str] | None = None,
) -> list[JsonValue]:
    """One text for each of Pydantic's or FastAPI's errors."""
    return [_problem(error, language, names, synonyms or {}) for error in errors]


def _problem(
    error: Mapping[str, Any], language: Language, names: Sequence[str], synonyms: Mapping[str, str]
) -> str:
    place = [part for part in error["loc"] if part not in ("body", "query", "path", "header")]
    field = ".".join(str(part)[:MAX_NAME_CHARS] for part in place) or "body"
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(field, language, names if len(place) == 1 else (), synonyms)
    if kind in LIMITS:
        text, name = LIMITS[kind]
        return say(language, text, field=field, limit=context[name])
    if kind == "string_too_short":
        return say(language, "empty", field=field)
    if kind in ("literal_error", "enum"):
        choices = context["expected"].replace("'", "").replace(" or ", ", ")
        return say(language, "one_of", field=field, choices=choices)
    problem = context.get("error")
    if isinstance(problem, Problem):
        return say(language, problem.text, **{"field": field, **problem.names})
    return say(language, KINDS.get(kind, "wrong"), field=field)


def _unknown(
    field: str, language: Language, names: Sequence[str], synonyms: Mapping[str, str]
) -> str:
    meant = synonyms.get(field.casefold())
    near = [meant] if meant else get_close_matches(field, names, n=3, cutoff=0.7)
    if near:
        return say(language, "unknown_field_near", field=field, near=", ".join(near))
    return say(language, "unknown_field", field=field)
