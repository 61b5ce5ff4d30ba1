"""Backgrounds that are more than one colour: a garden, a night sky, a beach.

They draw in pixels of the final picture, before the canvas gets its subject's frame.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from .canvas import Canvas, ring
from .palette import RGB

SKY: RGB = (178, 224, 248)
GRASS: RGB = (122, 196, 92)
NIGHT: RGB = (24, 30, 78)
SAND: RGB = (244, 222, 166)
SEA: RGB = (66, 164, 214)
MOON: RGB = (255, 244, 196)


def draw_garden(canvas: Canvas, rng: random.Random) -> None:
    """Sky above grass, with a bed of small flowers along the lower edge."""
    width, height = canvas.width, canvas.height
    horizon = height * rng.uniform(0.49, 0.51)
    canvas.rectangle((0, 0), (width, height), SKY)
    canvas.rectangle((0, horizon), (width, height), GRASS)
    count = width // 20
    for index in range(count):
        center = ((index + rng.uniform(0.3, 0.7)) * width / count, height - rng.uniform(6, 12))
        petals = rng.choice([(240, 90, 120), (255, 255, 255), (250, 210, 70)])
        for petal in ring(4, 2.4, center):
            canvas.ellipse(petal, 2.1, 2.1, petals)
        canvas.ellipse(center, 1.7, 1.7, (255, 190, 60))


def draw_night(canvas: Canvas, rng: random.Random) -> None:
    """Dark blue with a crescent moon in the upper right and scattered stars."""
    width, height = canvas.width, canvas.height
    canvas.rectangle((0, 0), (width, height), NIGHT)
    for _ in range(16):
        star = (rng.uniform(4, width - 4), rng.uniform(4, height - 4))
        radius = rng.uniform(0.9, 1.7)
        canvas.ellipse(star, radius, radius, MOON)
    moon = (width - 18, 18)
    canvas.ellipse(moon, 10, 10, MOON)
    canvas.ellipse((moon[0] - 5, moon[1] - 3), 8.5, 8.5, NIGHT)


def draw_beach(canvas: Canvas, rng: random.Random) -> None:
    """Sky, sea and sand, with a sun in the upper left."""
    width, height = canvas.width, canvas.height
    canvas.rectangle((0, 0), (width, height), SKY)
    canvas.ellipse((18, 18), 10, 10, (255, 214, 80))
    sea = height * rng.uniform(0.44, 0.46)
    shore = height * rng.uniform(0.66, 0.68)
    canvas.rectangle((0, sea), (width, shore), SEA)
    canvas.rectangle((0, shore), (width, height), SAND)


SCENE_BACKDROPS: dict[str, Callable[[Canvas, random.Random], None]] = {
    "garden": draw_garden,
    "night": draw_night,
    "beach": draw_beach,
}
