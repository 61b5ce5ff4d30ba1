"""A supersampled drawing surface that keeps the subject's mask beside the picture.

Subjects draw in their own unit square: x and y in -1..1 around the subject's centre, y downwards.
`Frame` maps that square to pixels with one radius for both axes, so that a subject keeps its
proportions in every aspect ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .palette import RGB

Point = tuple[float, float]
Pixels = NDArray[np.uint8]

SUPERSAMPLING = 3


@dataclass(frozen=True)
class Frame:
    """Where a subject stands, in pixels of the final picture."""

    center_x: float
    center_y: float
    radius: float
    mirrored: bool = False

    def to_pixels(self, point: Point) -> Point:
        sign = -1.0 if self.mirrored else 1.0
        return (
            self.center_x + sign * point[0] * self.radius,
            self.center_y + point[1] * self.radius,
        )


class Canvas:
    """Draws a background and then one subject; everything drawn with a frame is the subject."""

    def __init__(self, width: int, height: int, background: RGB) -> None:
        self.width = width
        self.height = height
        size = (width * SUPERSAMPLING, height * SUPERSAMPLING)
        self._image = Image.new("RGB", size, background)
        self._mask = Image.new("L", size, 0)
        self._painters = (ImageDraw.Draw(self._image), ImageDraw.Draw(self._mask))
        self.frame: Frame | None = None

    def polygon(self, points: Iterable[Point], fill: RGB) -> None:
        corners = [self._place(point) for point in points]
        self._painters[0].polygon(corners, fill=fill)
        if self.frame:
            self._painters[1].polygon(corners, fill=255)

    def ellipse(self, center: Point, radius_x: float, radius_y: float, fill: RGB) -> None:
        left, top = self._place((center[0] - radius_x, center[1] - radius_y))
        right, bottom = self._place((center[0] + radius_x, center[1] + radius_y))
        box = [min(left, right), top, max(left, right), bottom]
        self._painters[0].ellipse(box, fill=fill)
        if self.frame:
            self._painters[1].ellipse(box, fill=255)

    def rectangle(self, top_left: Point, bottom_right: Point, fill: RGB) -> None:
        (left, top), (right, bottom) = top_left, bottom_right
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def stroke(self, points: Sequence[Point], width: float, fill: RGB) -> None:
        """A line of constant width with round ends and joints."""
        scale = self.frame.radius if self.frame else 1.0
        pixel_width = max(1, round(width * scale * SUPERSAMPLING))
        corners = [self._place(point) for point in points]
        self._painters[0].line(corners, fill=fill, width=pixel_width, joint="curve")
        if self.frame:
            self._painters[1].line(corners, fill=255, width=pixel_width, joint="curve")
        for end in (points[0], points[-1]):
            self.ellipse(end, width / 2, width / 2, fill)

    def pixels(self) -> Pixels:
        """The picture, (height, width, 3), averaged down from the supersampled surface."""
        return np.asarray(self._image.reduce(SUPERSAMPLING))

    def mask(self) -> Pixels:
        """The subject's share of each pixel, 0..255, (height, width)."""
        return np.asarray(self._mask.reduce(SUPERSAMPLING))

    def _place(self, point: Point) -> Point:
        x, y = self.frame.to_pixels(point) if self.frame else point
        return x * SUPERSAMPLING, y * SUPERSAMPLING


def bezier(control: Sequence[Point], count: int = 24) -> list[Point]:
    """`count` points along the Bezier curve of any degree through its control points."""
    degree = len(control) - 1
    curve = []
    for index in range(count):
        share = index / (count - 1)
        weights = [
            math.comb(degree, k) * share**k * (1 - share) ** (degree - k) for k in range(degree + 1)
        ]
        curve.append(
            (
                sum(w * point[0] for w, point in zip(weights, control, strict=True)),
                sum(w * point[1] for w, point in zip(weights, control, strict=True)),
            )
        )
    return curve


def ring(count: int, radius: float, center: Point = (0.0, 0.0), turn: float = 0.0) -> list[Point]:
    """`count` points on a circle, starting at the top and going clockwise."""
    angles = [2 * math.pi * index / count + turn for index in range(count)]
    return [
        (center[0] + radius * math.sin(angle), center[1] - radius * math.cos(angle))
        for angle in angles
    ]
