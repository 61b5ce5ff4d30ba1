"""How control maps are asked for, in POST /generate and in POST /preprocess."""

from collections.abc import Mapping

from pydantic import JsonValue

from genserve.api.language import say
from genserve.domain.request import Control, ControlType
from genserve.errors import Language


def threshold_problems(
    low: float | None, high: float | None, kind: ControlType | None, language: Language
) -> list[JsonValue]:
    """What is wrong with canny's thresholds for a map of that type; None is a default."""
    given = [name for name, value in _named(low, high).items() if value is not None]
    if given and kind is not ControlType.CANNY:
        return [say(language, "only_canny", field=name) for name in given]
    control = made_from_photo(kind, low, high)
    if control.low_threshold > control.high_threshold:
        return [say(language, "thresholds", field="low_threshold")]
    return []


def made_from_photo(kind: ControlType | None, low: float | None, high: float | None) -> Control:
    """A control whose map is made first."""
    named = _named(low, high)
    given = {name: value for name, value in named.items() if value is not None}
    return Control.model_validate({"type": kind, "preprocess": True, **given})


def _named(low: float | None, high: float | None) -> Mapping[str, float | None]:
    return {"low_threshold": low, "high_threshold": high}
