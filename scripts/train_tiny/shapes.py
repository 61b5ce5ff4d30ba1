"""Subjects that are things: geometric shapes, house, tree, flower, fish."""

from __future__ import annotations

import math
import random

from .canvas import Canvas, bezier, ring
from .palette import COLOURS, LEAF, RGB, TRUNK, WHITE, darker, ink_on, lighter


def draw_circle(canvas: Canvas, colour: RGB, rng: random.Random) -> None:
    canvas.ellipse((0, 0), 0.95, 0.95, colour)


def draw_square(canvas: Canvas, colour: RGB, rng: random.Random) -> None:
    canvas.rectangle((-0.85, -0.85), (0.85, 0.85), colour)


def draw_triangle(canvas: Canvas, colour: RGB, rng: random.Random) -> None:
    canvas.polygon([(0, -0.95), (1.0, 0.8), (-1.0, 0.8)], colour)


def draw_star(canvas: Canvas, colour: RGB, rng: random.Random) -> None:
    outer = ring(5, 1.05, (0, 0.06))
    inner = ring(5, 0.47, (0, 0.06), turn=math.pi / 5)
    canvas.polygon([point for pair in zip(outer, inner, strict=True) for point in pair], colour)


def draw_heart(canvas: Canvas, colour: RGB, rng: random.Random) -> None:
    """The usual parametric heart curve, scaled from its 16-unit half width to 1."""
    curve = []
    for index in range(60):
        turn = 2 * math.pi * index / 60
        height = 13 * math.cos(turn) - 5 * math.cos(2 * turn)
        height -= 2 * math.cos(3 * turn) + math.cos(4 * turn)
        curve.append((math.sin(turn) ** 3, -0.12 - height / 16))
    canvas.polygon(curve, colour)


def draw_house(canvas: Canvas, colour: RGB, rng: random.Random) -> None:
    roof, pane, door = darker(colour, 0.42), (255, 236, 150), darker(colour, 0.62)
    if colour == COLOURS["yellow"]:
        pane = (150, 210, 240)
    canvas.rectangle((0.42, -0.92), (0.66, -0.3), roof)
    canvas.rectangle((-0.8, -0.2), (0.8, 0.98), colour)
    canvas.polygon([(-1.0, -0.16), (1.0, -0.16), (0, -1.0)], roof)
    canvas.rectangle((-0.2, 0.36), (0.2, 0.98), door)
    for center in (-0.5, 0.5):
        canvas.rectangle((center - 0.17, 0.08), (center + 0.17, 0.42), pane)


def draw_tree(canvas: Canvas, colour: RGB, rng: random.Random) -> None:
    """A fir of three tiers; later tiers shade the tier below a little."""
    canvas.rectangle((-0.14, 0.5), (0.14, 1.0), TRUNK)
    shade = darker(colour, 0.16)
    for top, bottom, half_width in ((-0.2, 0.72, 0.86), (-0.62, 0.3, 0.7), (-1.02, -0.14, 0.52)):
        canvas.polygon([(0, top), (half_width, bottom), (-half_width, bottom)], colour)
        if bottom < 0.5:
            tip = half_width * 0.9
            canvas.polygon([(-tip, bottom), (tip, bottom), (0, bottom + 0.1)], shade)


def draw_flower(canvas: Canvas, colour: RGB, rng: random.Random) -> None:
    heart = (255, 214, 70) if colour != COLOURS["yellow"] else (150, 92, 44)
    canvas.stroke([(0, 0.2), (0, 0.98)], 0.11, LEAF)
    canvas.polygon(bezier([(0, 0.9), (0.2, 0.5), (0.62, 0.5), (0.5, 0.86), (0, 0.92)], 14), LEAF)
    for petal in ring(6, 0.44, (0, -0.28)):
        canvas.ellipse(petal, 0.31, 0.31, colour)
    canvas.ellipse((0, -0.28), 0.26, 0.26, heart)


def draw_fish(canvas: Canvas, colour: RGB, rng: random.Random) -> None:
    """Looks to the left, unless the frame is mirrored."""
    fin = darker(colour, 0.25)
    canvas.polygon(bezier([(-0.35, -0.35), (0.0, -1.05), (0.5, -0.75), (0.35, -0.2)], 12), fin)
    canvas.polygon([(0.42, 0), (1.02, -0.56), (0.86, 0), (1.02, 0.56)], fin)
    canvas.ellipse((-0.2, 0), 0.8, 0.56, colour)
    canvas.polygon([(-0.05, 0.08), (0.34, 0.3), (0.02, 0.36)], fin)
    canvas.ellipse((-0.58, -0.12), 0.16, 0.16, WHITE)
    canvas.ellipse((-0.61, -0.12), 0.085, 0.085, (30, 26, 34))
    canvas.stroke(bezier([(-0.92, 0.16), (-0.8, 0.26), (-0.68, 0.2)], 6), 0.06, ink_on(colour))
    canvas.stroke(bezier([(-0.3, -0.34), (-0.14, 0), (-0.3, 0.34)], 8), 0.06, lighter(colour, 0.5))
