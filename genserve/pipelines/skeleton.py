"""Draws people as OpenPose does: 18 joints, each bone and joint in the colour that names it.

ControlNets for poses were trained on pictures of this kind (Cao et al., OpenPose, 2019; the COCO
model's body parts), so order, colours and proportions are a language that must be met exactly.
"""

import colorsys
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

Joint = tuple[float, float] | None
"""Where it is, in pixels from the upper left corner; None: not seen."""
Colour = tuple[int, int, int]

JOINTS = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)
"""OpenPose's order. The person's own right side."""

COLOURS: tuple[Colour, ...] = tuple(
    (round(255 * red), round(255 * green), round(255 * blue))
    for red, green, blue in (
        colorsys.hsv_to_rgb(number / len(JOINTS), 1, 1) for number in range(len(JOINTS))
    )
)
"""Once around the colour circle, beginning with red: joint and bone `n` have colour `n`."""

BONES = (
    ("neck", "right_shoulder"),
    ("neck", "left_shoulder"),
    ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"),
    ("left_shoulder", "left_elbow"),
    ("left_elbow", "left_wrist"),
    ("neck", "right_hip"),
    ("right_hip", "right_knee"),
    ("right_knee", "right_ankle"),
    ("neck", "left_hip"),
    ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"),
    ("neck", "nose"),
    ("nose", "right_eye"),
    ("right_eye", "right_ear"),
    ("nose", "left_eye"),
    ("left_eye", "left_ear"),
)

_RADIUS = 4 / 512
"""Of a joint, and half of a bone's width, as a share of the picture's shorter side."""
_BONE_BRIGHTNESS = 0.6
_OUTLINE = 40
"""Corners of the polygon that stands for a bone's ellipse."""


def draw_people(people: Sequence[Sequence[Joint]], size: tuple[int, int]) -> Image.Image:
    """RGB on black, of `size` (width, height). Each person has a `Joint` for each of `JOINTS`.

    Bones are drawn darker than joints and below them. A bone with an end that was not seen is left
    out, as is the joint.
    """
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    radius = max(1.0, _RADIUS * min(size))
    for person in people:
        for number, (start, end) in enumerate(BONES):
            here, there = person[JOINTS.index(start)], person[JOINTS.index(end)]
            if here is not None and there is not None:
                draw.polygon(_bone(here, there, radius), fill=_darker(COLOURS[number]))
        for number, joint in enumerate(person):
            if joint is not None:
                x, y = joint
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), COLOURS[number])
    return image


def _bone(
    start: tuple[float, float], end: tuple[float, float], radius: float
) -> list[tuple[float, float]]:
    """An ellipse from joint to joint, as long as they are apart."""
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    length = math.dist(start, end) / 2
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    cosine, sine = math.cos(angle), math.sin(angle)
    corners = []
    for number in range(_OUTLINE):
        turn = 2 * math.pi * number / _OUTLINE
        along, across = length * math.cos(turn), radius * math.sin(turn)
        corners.append(
            (middle[0] + along * cosine - across * sine, middle[1] + along * sine + across * cosine)
        )
    return corners


def _darker(colour: Colour) -> Colour:
    red, green, blue = (int(level * _BONE_BRIGHTNESS) for level in colour)
    return red, green, blue
