"""The small Flux model from text; and it and the small Stable Diffusion from a picture, which they
keep the more the less they may change."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from genserve.domain.request import Mode
from tests.semantic.conftest import LoadRecipe
from train_tiny.canvas import Pixels
from train_tiny.classifier import SubjectClassifier, name_subjects
from train_tiny.member_figures import (
    Asked,
    contents,
    held_out,
    overlap,
    percent,
    plain_specs,
    prompt_of,
)
from train_tiny.painting import Order
from train_tiny.palette import COLOURS
from train_tiny.readings import subject_colour, subject_pixels
from train_tiny.scenes import Drawing, SceneSpec, draw

SEED = 1
SAMPLES = 30
AS_IT_IS_ASKED: dict[str, dict[str, Any]] = {
    "tiny-flux-dev": {},
    "tiny-sd15": {"steps": 25, "guidance": 7.5},
}
TURNED = {"tiny-flux-dev": 30, "tiny-sd15": 80}
"""Percent of the pictures that have the prompt's colour at strength 0.3. Flux turns them towards
it, and less often arrives: at 0.5 in three of four."""


def scenes(purpose: str) -> list[SceneSpec]:
    return [replace(spec, looseness=0.0) for spec in plain_specs(SEED, purpose, SAMPLES, held_out)]


def recoloured(spec: SceneSpec, rng: random.Random) -> SceneSpec:
    others = [name for name in COLOURS if name not in (spec.colour, spec.background)]
    return replace(spec, colour=rng.choice(others))


@pytest.mark.timeout(600)
def test_text_is_drawn(recipe: LoadRecipe, judge: SubjectClassifier) -> None:
    specs = scenes("text")
    orders = [Order(prompt_of(spec, SEED), number) for number, spec in enumerate(specs)]
    pictures = recipe("tiny-flux-dev").painter(Mode.TEXT2IMG)(orders)
    figures = contents(Asked(orders, specs, []), pictures, judge)
    assert figures["subject"] >= 90
    assert figures["colour"] >= 95
    assert figures["background"] >= 95


@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", AS_IT_IS_ASKED)
def test_little_strength_keeps_the_layout(recipe: LoadRecipe, model: str) -> None:
    """At strength 0.3: the subject stays where it is, and turns towards the prompt's colour."""
    rng = random.Random(SEED)
    specs = scenes("keep")
    wanted = [recoloured(spec, rng) for spec in specs]
    drawings = [draw(spec) for spec in specs]
    orders = [
        Order(prompt_of(wish, SEED), number, picture=drawing.pixels)
        for number, (wish, drawing) in enumerate(zip(wanted, drawings, strict=True))
    ]
    asked = AS_IT_IS_ASKED[model]
    pictures = recipe(model).painter(Mode.IMG2IMG, strength=0.3, **asked)(orders)
    masks = [
        subject_pixels(p, s.background, s.colour) for p, s in zip(pictures, specs, strict=True)
    ]
    shares = [overlap(m, d.mask > 127) for m, d in zip(masks, drawings, strict=True)]
    assert sum(shares) / len(shares) >= 0.7
    turned = [
        1 - _distance(p, d, wish) / _distance(d.pixels, d, wish)
        for p, d, wish in zip(pictures, drawings, wanted, strict=True)
    ]
    assert sum(turned) / len(turned) >= 0.25
    colours = [subject_colour(p, s.background) for p, s in zip(pictures, specs, strict=True)]
    assert percent([c == w.colour for c, w in zip(colours, wanted, strict=True)]) >= TURNED[model]


def _distance(picture: Pixels, drawing: Drawing, wish: SceneSpec) -> float:
    """How far the colour, on average, of what was drawn as the subject is from the prompt's."""
    own = picture[drawing.mask > 127].mean(axis=0)
    return float(np.linalg.norm(own - np.array(COLOURS[wish.colour])))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", AS_IT_IS_ASKED)
def test_much_strength_follows_the_prompt(
    recipe: LoadRecipe, judge: SubjectClassifier, model: str
) -> None:
    """At strength 0.95 the picture that it starts from hardly counts."""
    rng = random.Random(SEED)
    specs = scenes("change")
    wanted = [recoloured(spec, rng) for spec in scenes("changed")]
    orders = [
        Order(prompt_of(wish, SEED), number, picture=draw(spec).pixels)
        for number, (wish, spec) in enumerate(zip(wanted, specs, strict=True))
    ]
    asked = AS_IT_IS_ASKED[model]
    pictures = recipe(model).painter(Mode.IMG2IMG, strength=0.95, **asked)(orders)
    named = name_subjects(judge, pictures, wanted)
    assert percent([n == s.subject for n, s in zip(named, wanted, strict=True)]) >= 80
    colours = [subject_colour(p, s.background) for p, s in zip(pictures, wanted, strict=True)]
    assert percent([c == s.colour for c, s in zip(colours, wanted, strict=True)]) >= 85
