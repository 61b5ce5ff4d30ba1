"""The person: a limb figure whose 18 joints are known (the order and names of OpenPose's COCO-18).

A pose is given by angles, in degrees, from straight down and positive outwards from the body:
(upper arm, forearm) for each arm and (thigh, shin) for each leg, the person's right side first.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from .canvas import Canvas, Point
from .palette import INK, RGB, SKIN, darker

JOINTS = (
    "nose", "neck",
    "right_shoulder", "right_elbow", "right_wrist",
    "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle",
    "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip


@dataclass(frozen=True)
class Pose:
    right_arm: tuple[float, float]
    left_arm: tuple[float, float]
    right_leg: tuple[float, float]
    left_leg: tuple[float, float]


POSES: dict[str, Pose] = {
    "standing": Pose((18, 10), (18, 10), (8, 4), (8, 4)),
    "waving": Pose((18, 10), (115, 165), (8, 4), (8, 4)),
    "arms up": Pose((140, 165), (140, 165), (12, 6), (12, 6)),
    "walking": Pose((38, 8), (-28, -50), (30, 8), (22, 40)),
    "jumping": Pose((112, 128), (112, 128), (38, 30), (38, 30)),
}

_ANGLE_JITTER = 8.0
_HEAD: Point = (0.0, -0.72)
_NECK: Point = (0.0, -0.44)


def solve_joints(pose: Pose, rng: random.Random, looseness: float = 1.0) -> dict[str, Point]:
    """The joints in the subject's unit square. The person's right side is the viewer's left."""
    jitter = _ANGLE_JITTER * looseness
    joints: dict[str, Point] = {"nose": (0.0, -0.7), "neck": _NECK}
    for side, sign, arm, leg in (
        ("right", -1.0, pose.right_arm, pose.right_leg),
        ("left", 1.0, pose.left_arm, pose.left_leg),
    ):
        joints[f"{side}_shoulder"] = shoulder = (sign * 0.24, -0.38)
        joints[f"{side}_elbow"] = elbow = _swing(shoulder, arm[0], sign, 0.34, jitter, rng)
        joints[f"{side}_wrist"] = _swing(elbow, arm[1], sign, 0.32, jitter, rng)
        joints[f"{side}_hip"] = hip = (sign * 0.13, 0.2)
        joints[f"{side}_knee"] = knee = _swing(hip, leg[0], sign, 0.38, jitter, rng)
        joints[f"{side}_ankle"] = _swing(knee, leg[1], sign, 0.36, jitter, rng)
        joints[f"{side}_eye"] = (sign * 0.09, -0.74)
        joints[f"{side}_ear"] = (sign * 0.22, -0.72)
    return {name: joints[name] for name in JOINTS}


def _swing(
    start: Point, degrees: float, sign: float, length: float, jitter: float, rng: random.Random
) -> Point:
    angle = math.radians(degrees + rng.uniform(-jitter, jitter))
    return start[0] + sign * length * math.sin(angle), start[1] + length * math.cos(angle)


def draw_person(canvas: Canvas, colour: RGB, joints: dict[str, Point]) -> None:
    """Clothes in the subject's colour; head and hands in skin colour."""
    for side in ("right", "left"):
        leg = [joints[f"{side}_{part}"] for part in ("hip", "knee", "ankle")]
        canvas.stroke(leg, 0.2, colour)
        foot = joints[f"{side}_ankle"]
        canvas.ellipse((foot[0], foot[1] + 0.02), 0.13, 0.08, darker(colour, 0.5))
    canvas.polygon([(-0.27, -0.44), (0.27, -0.44), (0.22, 0.26), (-0.22, 0.26)], colour)
    for side in ("right", "left"):
        arm = [joints[f"{side}_{part}"] for part in ("shoulder", "elbow", "wrist")]
        canvas.stroke(arm, 0.18, colour)
        canvas.ellipse(joints[f"{side}_wrist"], 0.1, 0.1, SKIN)
    canvas.ellipse(_HEAD, 0.25, 0.26, SKIN)
    hair = [(0.25 * math.sin(t), -0.74 - 0.27 * math.cos(t)) for t in _arc(-1.45, 1.45, 14)]
    canvas.polygon([*hair, (0.12, -0.86), (-0.12, -0.86)], (92, 58, 36))
    for side in ("right", "left"):
        canvas.ellipse(joints[f"{side}_eye"], 0.04, 0.05, INK)
    canvas.stroke([(-0.07, -0.6), (0, -0.575), (0.07, -0.6)], 0.04, (190, 80, 80))


def _arc(start: float, end: float, count: int) -> list[float]:
    return [start + (end - start) * index / (count - 1) for index in range(count)]
