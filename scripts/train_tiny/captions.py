"""Captions for scenes, English and Chinese, many variants of each.

Every attribute is sometimes left out. What is left out more often decides what the model draws by
itself: natural colours, a medium size, the middle of the picture, a light background.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from . import vocabulary as words
from .palette import COLOURS
from .scenes import NATURAL_COLOURS, SceneSpec

LANGUAGES = ("en", "zh")
CHINESE_SHARE = 0.45
_NO_SUBJECT_SHARE = 0.02
_LIGHT_BACKGROUNDS = frozenset({"white", "cyan", "yellow", "garden"})
# Named attributes of a caption; what is not in the set is left out.
ATTRIBUTES = frozenset({"colour", "background", "position", "size", "pose"})


def choose_attributes(spec: SceneSpec, rng: random.Random) -> frozenset[str]:
    """Which attributes a training caption names."""
    natural = spec.colour in NATURAL_COLOURS.get(spec.subject, (spec.colour,))
    left_out = {
        "colour": 0.35 if natural else 0.04,
        "background": 0.3 if spec.background in _LIGHT_BACKGROUNDS else 0.06,
        "position": 0.6 if spec.position == "center" else 0.06,
        "size": {"small": 0.1, "medium": 0.7, "large": 0.5}[spec.size],
        "pose": 0.5,
    }
    return frozenset(name for name, share in left_out.items() if rng.random() >= share)


def caption(
    spec: SceneSpec,
    rng: random.Random,
    language: str | None = None,
    named: frozenset[str] | None = None,
) -> str:
    """A caption of `spec` in the language given, else in either; `named` fixes what it says."""
    language = language or ("zh" if rng.random() < CHINESE_SHARE else "en")
    if named is None:
        if rng.random() < _NO_SUBJECT_SHARE:
            return _subjectless(rng, language)
        named = choose_attributes(spec, rng)
    if language == "zh":
        return _chinese(spec, rng, named) + rng.choice(("", "", "", "。"))
    return _as_typed(_english(spec, rng, named), rng)


def _as_typed(text: str, rng: random.Random) -> str:
    """Capitals and a full stop, now and then, as people type them."""
    chance = rng.random()
    if chance < 0.08:
        text = text[0].upper() + text[1:]
    elif chance < 0.1:
        text = text.title()
    return text + "." if rng.random() < 0.08 else text


def _subjectless(rng: random.Random, language: str) -> str:
    if language == "zh":
        return "，".join(rng.sample(words.QUALITY_ZH, rng.randint(1, 2)))
    return ", ".join(rng.sample(words.QUALITY_EN, rng.randint(1, 2)))


def _word(table: Mapping[str, Sequence[str]], key: str, rng: random.Random) -> str:
    return rng.choice(table.get(key, (key,)))


def _english(spec: SceneSpec, rng: random.Random, named: frozenset[str]) -> str:
    adjectives = []
    if rng.random() < 0.25:
        adjectives.append(rng.choice(words.FILLER_EN))
    if "size" in named:
        adjectives.append(_word(words.SIZE_EN, spec.size, rng))
    if "colour" in named:
        adjectives.append(_word(words.COLOUR_EN, spec.colour, rng))
    noun = _word(words.SUBJECT_EN, spec.subject, rng)
    phrase = " ".join([*adjectives, noun])
    article = rng.choice(("the", "one", "", "a", "a", "a", "a"))
    if article == "a" and phrase[0] in "aeo":
        article = "an"
    phrase = f"{article} {phrase}".strip()
    if rng.random() < 0.12:
        phrase = f"{rng.choice(words.OPENING_EN)} {phrase}"
    if spec.pose and "pose" in named:
        phrase += f" {words.POSE_EN[spec.pose]}"
    phrase += _join(_english_places(spec, rng, named), rng, (" ", " ", ", ", ","))
    if rng.random() < 0.2:
        comma = rng.choice((", ", ", ", ","))
        phrase += comma + comma.join(rng.sample(words.QUALITY_EN, rng.randint(1, 2)))
    return phrase


def _english_places(spec: SceneSpec, rng: random.Random, named: frozenset[str]) -> list[str]:
    places = []
    if "background" in named:
        if spec.background in COLOURS:
            colour = _word(words.COLOUR_EN, spec.background, rng)
            article = "an" if colour[0] in "aeo" else "a"
            lead = rng.choice((f"on {article} ", f"with {article} ", ""))
            places.append(f"{lead}{colour} background")
        else:
            places.append(_word(words.SCENE_EN, spec.background, rng))
    if "position" in named:
        places.append(_word(words.POSITION_EN, spec.position, rng))
    rng.shuffle(places)
    return places


def _join(places: list[str], rng: random.Random, separators: tuple[str, ...]) -> str:
    return "".join(rng.choice(separators) + place for place in places)


def _chinese(spec: SceneSpec, rng: random.Random, named: frozenset[str]) -> str:
    phrase = ""
    if rng.random() < 0.88:
        phrase = rng.choice(words.MEASURE_ZH.get(spec.subject, ("一个",)))
    if rng.random() < 0.3:
        phrase += rng.choice(words.FILLER_ZH)
    if "size" in named:
        phrase += _word(words.SIZE_ZH, spec.size, rng)
    if "colour" in named:
        phrase += _word(words.COLOUR_ZH, spec.colour, rng) + rng.choice(("的", "的", ""))
    phrase += _word(words.SUBJECT_ZH, spec.subject, rng)
    if rng.random() < 0.1:
        phrase = rng.choice(words.OPENING_ZH) + phrase
    if spec.pose and "pose" in named:
        phrase += words.POSE_ZH[spec.pose]
    places = _chinese_places(spec, rng, named)
    phrase += _join(places, rng, ("，", "，", ",", " ", ""))
    if rng.random() < 0.2:
        phrase += "，" + "，".join(rng.sample(words.QUALITY_ZH, rng.randint(1, 2)))
    return phrase


def _chinese_places(spec: SceneSpec, rng: random.Random, named: frozenset[str]) -> list[str]:
    places = []
    if "background" in named:
        if spec.background in COLOURS:
            colour = _word(words.COLOUR_ZH, spec.background, rng)
            places.append(rng.choice(("{}背景", "{}背景", "{}的背景", "在{}背景上")).format(colour))
        else:
            places.append(_word(words.SCENE_ZH, spec.background, rng))
    if "position" in named:
        places.append(_word(words.POSITION_ZH, spec.position, rng))
    rng.shuffle(places)
    return places
