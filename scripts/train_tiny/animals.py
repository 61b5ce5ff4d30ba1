"""Subjects that are animals with a face: cat, lion, swan."""

from __future__ import annotations

import random

from .canvas import Canvas, Point, bezier, ring
from .palette import COLOURS, RGB, WHITE, darker, ink_on, lighter

PINK: RGB = (246, 150, 165)


def _eyes(canvas: Canvas, center: Point, spread: float, size: float, colour: RGB) -> None:
    """Two big round eyes with a glint; on a dark face the white of the eye shows around."""
    for side in (-1.0, 1.0):
        at = (center[0] + side * spread, center[1])
        if sum(colour) < 330:
            canvas.ellipse(at, size * 1.3, size * 1.42, (250, 246, 225))
        canvas.ellipse(at, size, size * 1.15, (34, 28, 38))
        canvas.ellipse((at[0] - size * 0.3, at[1] - size * 0.4), size * 0.36, size * 0.36, WHITE)


def draw_cat(canvas: Canvas, colour: RGB, rng: random.Random) -> None:
    """Sits and looks at the viewer, tail to one side."""
    line, belly = ink_on(colour), lighter(colour, 0.45)
    tail = bezier([(0.3, 0.86), (1.0, 0.95), (0.98, 0.5), (0.7, 0.3)], 14)
    canvas.stroke(tail, 0.19, colour)
    canvas.polygon(
        bezier([(-0.5, 0.98), (-0.62, 0.5), (-0.4, 0.0), (0, -0.1)], 10)
        + bezier([(0, -0.1), (0.4, 0.0), (0.62, 0.5), (0.5, 0.98)], 10),
        colour,
    )
    canvas.ellipse((0, 0.62), 0.24, 0.3, belly)
    for side in (-1.0, 1.0):
        canvas.ellipse((side * 0.24, 0.9), 0.19, 0.1, colour)
        canvas.polygon([(side * 0.7, -1.02), (side * 0.72, -0.35), (side * 0.1, -0.72)], colour)
        canvas.polygon([(side * 0.62, -0.86), (side * 0.62, -0.5), (side * 0.28, -0.7)], PINK)
    canvas.ellipse((0, -0.3), 0.74, 0.56, colour)
    _eyes(canvas, (0, -0.36), 0.33, 0.14, colour)
    canvas.polygon([(-0.09, -0.16), (0.09, -0.16), (0, -0.06)], PINK if colour != PINK else line)
    mouth = [(-0.15, -0.02), (-0.08, 0.05), (0, -0.02), (0.08, 0.05), (0.15, -0.02)]
    canvas.stroke(mouth, 0.045, line)
    for side in (-1.0, 1.0):
        for start, end in ((-0.12, -0.2), (-0.04, 0.0)):
            canvas.stroke([(side * 0.46, start), (side * 0.96, end)], 0.045, line)


def draw_lion(canvas: Canvas, colour: RGB, rng: random.Random) -> None:
    """Sits and looks at the viewer from a scalloped mane that is a shade of its coat."""
    mane, line = darker(colour, 0.38), ink_on(colour)
    tail = bezier([(0.35, 0.85), (0.95, 0.9), (0.98, 0.6), (0.84, 0.42)], 12)
    canvas.stroke(tail, 0.13, colour)
    canvas.ellipse((0.84, 0.4), 0.15, 0.17, mane)
    canvas.ellipse((0, 0.56), 0.56, 0.43, colour)
    for bump in ring(12, 0.62, (0, -0.24)):
        canvas.ellipse(bump, 0.2, 0.2, mane)
    canvas.ellipse((0, -0.24), 0.64, 0.64, mane)
    for side in (-1.0, 1.0):
        canvas.ellipse((side * 0.26, 0.9), 0.21, 0.11, colour)
        canvas.ellipse((side * 0.4, -0.64), 0.17, 0.17, colour)
    canvas.ellipse((0, -0.2), 0.52, 0.5, colour)
    canvas.ellipse((0, 0.04), 0.25, 0.18, lighter(colour, 0.55))
    _eyes(canvas, (0, -0.28), 0.24, 0.1, colour)
    canvas.polygon([(-0.11, -0.08), (0.11, -0.08), (0, 0.04)], (60, 36, 36))
    canvas.stroke([(0, 0.02), (0, 0.1)], 0.045, line if sum(colour) > 150 else (60, 36, 36))


def draw_swan(canvas: Canvas, colour: RGB, rng: random.Random) -> None:
    """Swims to the left, unless mirrored: teardrop body, wing and S-shaped neck."""
    beak = COLOURS["orange"] if colour != COLOURS["orange"] else (120, 60, 30)
    body = bezier([(-0.72, 0.42), (-0.55, -0.02), (0.2, -0.05), (1.05, -0.3)], 16)
    body += bezier([(1.05, -0.3), (0.95, 0.6), (0.45, 0.95), (-0.1, 0.92)], 14)
    body += bezier([(-0.1, 0.92), (-0.55, 0.9), (-0.8, 0.75), (-0.72, 0.42)], 12)
    canvas.polygon(body, colour)
    neck = [(-0.5, 0.5), (-1.0, 0.2), (-0.62, -0.2), (-0.1, -0.55), (-0.3, -1.1), (-0.6, -0.72)]
    canvas.stroke(bezier(neck, 26), 0.24, colour)
    canvas.ellipse((-0.52, -0.76), 0.2, 0.17, colour)
    canvas.polygon([(-0.64, -0.86), (-0.66, -0.64), (-1.0, -0.62)], beak)
    canvas.ellipse((-0.54, -0.8), 0.055, 0.06, ink_on(colour))
    shade = darker(colour, 0.18) if sum(colour) > 150 else lighter(colour, 0.3)
    wing = bezier([(-0.3, 0.38), (0.1, 0.05), (0.6, 0.15), (1.0, -0.12)], 14)
    wing += bezier([(1.0, -0.12), (0.85, 0.5), (0.3, 0.85), (-0.3, 0.38)], 14)
    canvas.polygon(wing, shade)
    inner = bezier([(-0.1, 0.36), (0.2, 0.18), (0.55, 0.26), (0.84, 0.08)], 12)
    inner += bezier([(0.84, 0.08), (0.7, 0.4), (0.3, 0.6), (-0.1, 0.36)], 12)
    canvas.polygon(inner, colour)
