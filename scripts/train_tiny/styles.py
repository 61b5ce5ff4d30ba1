"""Three styles, drawn over drawings: what the LoRAs teach the base.

`cute_cat`: cats get a large pink bow, pink cheeks, and hearts around them; others stay as they are.
`night`: everything lies in blue darkness, under a moon and stars.
`outlined`: the subject is a sticker, with a thick line in ink and a white rim around it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from .backdrops import MOON
from .canvas import Canvas, Pixels, Point
from .pairs import Shown, spec_rng
from .palette import INK, RGB, WHITE
from .scenes import BUCKETS, Drawing, SceneSpec, draw, frame_of

BOW: RGB = (255, 92, 158)
BOW_KNOT: RGB = (206, 40, 110)
CHEEK: RGB = (255, 140, 170)
HEART: RGB = (255, 70, 120)
_DUSK = np.array((18, 26, 84), dtype=np.float32)
# How much of a picture's own colours is left at night.
_BACKGROUND_LIGHT, _SUBJECT_LIGHT = 0.22, 0.62
_INK_WIDTH, _RIM_WIDTH = 5, 4

Style = Callable[[Drawing, SceneSpec], Drawing]


def cute_cat(drawing: Drawing, spec: SceneSpec) -> Drawing:
    if spec.subject != "cat":
        return drawing
    width, height = BUCKETS[spec.bucket]
    over = Canvas(width, height, (0, 0, 0))
    # As `draw` does: the frame is the first that a spec's seed decides.
    over.frame = frame_of(spec, random.Random(spec.seed))
    for side in (-1.0, 1.0):
        over.ellipse((side * 0.46, -0.14), 0.17, 0.11, CHEEK)
        over.polygon([(0, -0.86), (side * 0.6, -1.2), (side * 0.6, -0.56)], BOW)
    over.ellipse((0, -0.87), 0.17, 0.17, BOW_KNOT)
    for center, size in (((-0.98, 0.1), 0.27), ((1.02, -0.3), 0.24), ((-0.9, -0.62), 0.18)):
        _heart(over, center, size)
    share = over.mask()[..., None].astype(np.float32) / 255
    pixels = drawing.pixels * (1 - share) + over.pixels() * np.minimum(share * 4, 1) * share
    mask = np.maximum(drawing.mask, over.mask())
    return replace(drawing, pixels=_bytes(pixels), mask=mask)


def _heart(canvas: Canvas, center: Point, size: float) -> None:
    x, y = center
    for side in (-1.0, 1.0):
        canvas.ellipse((x + side * 0.45 * size, y - 0.3 * size), 0.5 * size, 0.5 * size, HEART)
    lower = [(x - 0.9 * size, y - 0.08 * size), (x + 0.9 * size, y - 0.08 * size)]
    canvas.polygon([*lower, (x, y + size)], HEART)


def night(drawing: Drawing, spec: SceneSpec) -> Drawing:
    rng = spec_rng(spec, "night")
    share = drawing.mask[..., None].astype(np.float32) / 255
    light = _BACKGROUND_LIGHT + (_SUBJECT_LIGHT - _BACKGROUND_LIGHT) * share
    pixels = drawing.pixels * light + _DUSK * (1 - light)
    sky = _sky(spec.bucket, rng)
    pixels = pixels * (1 - sky * (1 - share)) + np.array(MOON, np.float32) * sky * (1 - share)
    return replace(drawing, pixels=_bytes(pixels))


def _sky(bucket: str, rng: random.Random) -> np.ndarray:
    """Where moon and stars shine, (height, width, 1) in 0..1. The moon is always in one place."""
    width, height = BUCKETS[bucket]
    lights = Canvas(width, height, (0, 0, 0))
    moon = (17, 17)
    lights.ellipse(moon, 11, 11, WHITE)
    lights.ellipse((moon[0] + 5, moon[1] - 3), 9, 9, (0, 0, 0))
    for column in range(width // 24):
        star = (24 * column + rng.uniform(6, 18), rng.uniform(6, height - 6))
        if np.hypot(star[0] - moon[0], star[1] - moon[1]) > 16:
            radius = rng.uniform(1.3, 2.2)
            lights.ellipse(star, radius, radius, WHITE)
    return lights.pixels()[..., :1].astype(np.float32) / 255


def outlined(drawing: Drawing, spec: SceneSpec) -> Drawing:
    solid = (drawing.mask > 127).astype(np.uint8)
    inked, rimmed = (
        cv2.GaussianBlur(_grown(solid, width) * 1.0, (0, 0), 0.6)[..., None]
        for width in (_INK_WIDTH, _INK_WIDTH + _RIM_WIDTH)
    )
    share = drawing.mask[..., None].astype(np.float32) / 255
    pixels = drawing.pixels * (1 - rimmed) + np.array(WHITE) * rimmed
    pixels = pixels * (1 - inked) + np.array(INK) * inked
    pixels = pixels * (1 - share) + drawing.pixels * share
    mask = (rimmed[..., 0] * 255).round().astype(np.uint8)
    return replace(drawing, pixels=_bytes(pixels), mask=mask)


def _grown(solid: np.ndarray, width: int) -> np.ndarray:
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1,) * 2)
    return np.asarray(cv2.dilate(solid, disc))


def _bytes(pixels: np.ndarray) -> Pixels:
    return pixels.clip(0, 255).round().astype(np.uint8)


STYLES: dict[str, Style] = {"cute_cat": cute_cat, "night": night, "outlined": outlined}


def styled(spec: SceneSpec, names: frozenset[str] | set[str]) -> Drawing:
    """The drawing of a spec with these styles over it, always in the same order."""
    drawing = draw(spec)
    for name in ("cute_cat", "outlined", "night"):
        if name in names:
            drawing = STYLES[name](drawing, spec)
    return drawing


def show_styled(name: str) -> Callable[[SceneSpec], Shown]:
    def show(spec: SceneSpec) -> Shown:
        drawing = styled(spec, {name})
        return Shown(drawing.pixels, drawing.mask)

    return show
