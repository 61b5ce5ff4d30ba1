"""tiny-sd15 as a painter, in diffusers' own pipelines, and what it is measured by."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLPipeline,
)

from .canvas import Pixels
from .captions import caption
from .checkpoint import step_seed
from .classifier import SubjectClassifier
from .member_figures import (
    Asked,
    Figures,
    Measure,
    contents,
    held_out,
    percent,
    plain_specs,
    prompt_of,
)
from .painting import Order, Painter, in_batches, noise_of, pictures_of
from .palette import COLOURS
from .readings import subject_colour, subject_position
from .scenes import SceneSpec, draw, is_drawable
from .sd_base import load_sd

STEPS = 25
# Above 4 the multistep PNDM burns colours; the others bear more.
GUIDANCE = 3.5
# Asked for without a colour, most of them get this one.
TYPICAL_COLOURS = {"swan": "white", "star": "yellow", "lion": "orange"}
_FAR_FROM = {"white": "red", "yellow": "blue", "orange": "blue"}
_EVERYTHING = frozenset({"colour", "background", "position"})


def _common(orders: Sequence[Order]) -> dict[str, Any]:
    width, height = orders[0].size
    return {
        "prompt": [order.prompt for order in orders],
        "negative_prompt": [order.negative for order in orders],
        "width": width,
        "height": height,
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "generator": noise_of(orders),
        "output_type": "np",
    }


def sd_painter(folder: Path) -> Painter:
    """From text alone, with the scheduler that the folder names."""
    pipeline = load_sd(folder)
    return lambda orders: in_batches(
        orders, folder.name, lambda part: pipeline(**_common(part)).images
    )


def sdxl_painter(folder: Path) -> Painter:
    """As `sd_painter`. No negative prompt is all zeros, as in training and in GenServe."""
    pipeline = load_sd(folder, StableDiffusionXLPipeline)

    def paint(part: Sequence[Order]) -> Any:
        given = _common(part)
        if not any(given["negative_prompt"]):
            given["negative_prompt"] = None
        return pipeline(**given).images

    return lambda orders: in_batches(orders, folder.name, paint)


def sd_control_painter(folder: Path, control: Path) -> Painter:
    """With a ControlNet beside the UNet."""
    controlnet = ControlNetModel.from_pretrained(
        control, dtype=torch.float32, local_files_only=True
    )
    components = load_sd(folder).components
    pipeline = StableDiffusionControlNetPipeline(
        **components, controlnet=controlnet, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return lambda orders: in_batches(
        orders,
        control.name,
        lambda part: pipeline(**_common(part), image=pictures_of(part)).images,
    )


def _ask_scenes(seed: int, count: int) -> Asked:
    specs = plain_specs(seed, "sd", count, held_out)
    orders = [
        Order(prompt_of(spec, seed, _EVERYTHING), number) for number, spec in enumerate(specs)
    ]
    return Asked(orders, specs, [draw(spec) for spec in specs])


def _score_scenes(
    asked: Asked, pictures: Sequence[Pixels], classifier: SubjectClassifier
) -> Figures:
    places = zip(pictures, asked.specs, strict=True)
    right = [subject_position(p, spec.background) == spec.position for p, spec in places]
    return contents(asked, pictures, classifier) | {"position": percent(right)}


SD_MEASURE = Measure(
    _ask_scenes,
    _score_scenes,
    {"subject": 85.0, "colour": 90.0, "background": 95.0, "position": 85.0},
)


def negative_figures(painter: Painter, seed: int, count: int) -> Figures:
    """Does a negative prompt take away the colour that it names, and no other?

    Subjects of a typical colour are drawn without naming one, so that most get it: once with that
    colour as the negative prompt, once with one far from it. `negative prompt`: percent that have
    some other colour then. `negative prompt of another colour`: percent that keep the typical one.
    """
    rng = random.Random(step_seed(seed, "evaluate", "negative"))
    specs = [_typical(spec, rng) for spec in plain_specs(seed, "negative", count, held_out)]
    orders = [
        Order(caption(spec, rng, "en", frozenset({"background"})), number)
        for number, spec in enumerate(specs)
    ]

    def drawn(negatives: Sequence[str]) -> list[str]:
        told = [
            replace(order, negative=colour) for order, colour in zip(orders, negatives, strict=True)
        ]
        pairs = zip(painter(told), specs, strict=True)
        return [subject_colour(picture, spec.background) for picture, spec in pairs]

    typical = [spec.colour for spec in specs]
    others = [_FAR_FROM[colour] for colour in typical]
    gone = [seen not in ("", own) for seen, own in zip(drawn(typical), typical, strict=True)]
    kept = [seen == own for seen, own in zip(drawn(others), typical, strict=True)]
    return {
        "negative prompt": percent(gone),
        "negative prompt of another colour": percent(kept),
    }


def _typical(spec: SceneSpec, rng: random.Random) -> SceneSpec:
    """The scene with a subject of a typical colour, before a background that shows it."""
    subject, colour = rng.choice(list(TYPICAL_COLOURS.items()))
    backgrounds = [
        name
        for name in COLOURS
        if name != _FAR_FROM[colour] and is_drawable((subject, colour, name))
    ]
    background = rng.choice(backgrounds)
    return replace(spec, subject=subject, colour=colour, background=background, pose="")
