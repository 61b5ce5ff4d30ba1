"""What pictures are steered by: edges, depth, skeletons and masks, made from drawings.

Edges come from OpenCV's Canny and skeletons from GenServe's own `skeleton`, so that a map which the
server makes of a photo speaks the language that the members were taught. All maps have the
drawing's size.
"""

from __future__ import annotations

import random

import cv2
import numpy as np

from genserve.pipelines.skeleton import draw_people

from .canvas import Pixels
from .person import Pose
from .scenes import Drawing, SceneSpec

# GenServe's own thresholds, see `genserve.domain.request.Control`.
LOW_THRESHOLD, HIGH_THRESHOLD = 100, 200
# Depth maps, as Depth Anything's: near is bright.
_FAR, _NEAR = 20, 225
# Where the ground begins, as a share of the height; see `backdrops`.
_HORIZONS = {"garden": 0.5, "beach": 0.45}


def canny_map(picture: Pixels, low: float = LOW_THRESHOLD, high: float = HIGH_THRESHOLD) -> Pixels:
    """Edges, white on black, (height, width, 3)."""
    edges = cv2.Canny(picture, low, high)
    return np.repeat(np.asarray(edges, dtype=np.uint8)[..., None], 3, axis=2)


def loose_canny_map(drawing: Drawing, rng: random.Random) -> Pixels:
    """Edges by thresholds at random; every fourth map has lines twice as wide, as some tools do."""
    low = rng.uniform(40, 130)
    edges = canny_map(drawing.pixels, low, low * rng.uniform(1.5, 3.0))
    if rng.random() < 0.25:
        edges = np.asarray(cv2.dilate(edges, np.ones((2, 2), np.uint8)), dtype=np.uint8)
    return edges


def depth_map(
    drawing: Drawing, spec: SceneSpec, far: int = _FAR, near: int = _NEAR, relief: int = 50
) -> Pixels:
    """Background far, ground nearer towards the viewer, the subject near and rounded at its edge.

    `relief` is how much darker the subject's edge is than its middle. (height, width, 3).
    """
    height, width = drawing.mask.shape
    depth = np.full((height, width), float(far))
    if spec.background in _HORIZONS:
        slope = np.linspace(0, 1, height) - _HORIZONS[spec.background]
        depth += (near - 40 - far) * np.clip(slope / slope.max(), 0, 1)[:, None]
    solid = (drawing.mask > 127).astype(np.uint8)
    inside = np.asarray(cv2.distanceTransform(solid, cv2.DIST_L2, 3))
    roundness = np.sqrt(inside / max(float(inside.max()), 1.0))
    share = drawing.mask / 255.0
    depth = depth * (1 - share) + (near - relief * (1 - roundness)) * share
    flat = depth.clip(0, 255).round().astype(np.uint8)
    return np.repeat(flat[..., None], 3, axis=2)


def loose_depth_map(drawing: Drawing, spec: SceneSpec, rng: random.Random) -> Pixels:
    """Depth with the distances at random, a little blurred now and then, as networks' maps are."""
    depth = depth_map(
        drawing, spec, rng.randint(0, 60), rng.randint(170, 255), rng.choice((0, 40, 80))
    )
    if rng.random() < 0.3:
        blurred = cv2.GaussianBlur(depth, (0, 0), rng.uniform(0.5, 1.2))
        depth = np.asarray(blurred, dtype=np.uint8)
    return depth


def pose_map(drawing: Drawing) -> Pixels:
    """The skeleton of the drawing's person, as OpenPose draws it, (height, width, 3)."""
    height, width = drawing.mask.shape
    return np.asarray(draw_people([list(drawing.joints.values())], (width, height)))


def random_pose(rng: random.Random) -> Pose:
    """Any pose that a standing person can take; see `person` for the angles."""
    arms = []
    for _ in range(2):
        upper = rng.uniform(-20, 155)
        arms.append((upper, upper + rng.uniform(-60, 90)))
    legs = []
    for _ in range(2):
        thigh = rng.uniform(-8, 55)
        legs.append((thigh, thigh + rng.uniform(-45, 15)))
    return Pose(arms[0], arms[1], legs[0], legs[1])


def fill_mask(drawing: Drawing, rng: random.Random) -> Pixels:
    """What is to be painted anew, white on black, (height, width): a shape at random, something
    around the subject, or everything."""
    height, width = drawing.mask.shape
    mask = np.zeros((height, width), np.uint8)
    kind = rng.choice(("box", "ellipse", "blob", "subject", "subject", "around", "around", "all"))
    rows, columns = np.nonzero(drawing.mask > 127)
    match kind:
        case "all":
            mask[:] = 255
        case "subject":
            reach = rng.randint(1, 8)
            solid = (drawing.mask > 0).astype(np.uint8) * 255
            mask[:] = cv2.dilate(solid, np.ones((2 * reach + 1,) * 2, np.uint8))
        case "around":
            margin = rng.randint(2, 14)
            top, bottom = max(rows.min() - margin, 0), rows.max() + margin
            mask[top : bottom + 1, max(columns.min() - margin, 0) : columns.max() + margin + 1] = (
                255
            )
        case _:
            for _ in range(4 if kind == "blob" else 1):
                center = (rng.randrange(width), rng.randrange(height))
                half = (rng.randint(8, width // 2), rng.randint(8, height // 2))
                _paint(mask, kind, center, half)
    return mask


def _paint(mask: Pixels, kind: str, center: tuple[int, int], half: tuple[int, int]) -> None:
    if kind == "box":
        corners = [(center[0] + s * half[0], center[1] + s * half[1]) for s in (-1, 1)]
        cv2.rectangle(mask, corners[0], corners[1], 255, -1)
    else:
        cv2.ellipse(mask, center, half, 0, 0, 360, 255, -1)
