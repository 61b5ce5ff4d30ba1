"""Reads background, subject colour and subject position from a picture's pixels.

Pictures are (height, width, 3), 8-bit RGB. Subject colour and position can be read where the
background is one colour. On drawings
themselves these readings are right more than 99 times in 100 (the evaluation reports how often).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .backdrops import GRASS, NIGHT, SAND, SKY
from .canvas import Pixels
from .palette import COLOURS

_NAMES = tuple(COLOURS)
_TABLE = np.array([COLOURS[name] for name in _NAMES], dtype=np.float32)
_BORDER = 4
# Colours at the upper and the lower edge.
_EDGES = {name: (colour, colour) for name, colour in COLOURS.items()} | {
    "garden": (SKY, GRASS),
    "night": (NIGHT, NIGHT),
    "beach": (SKY, SAND),
}
CROP_SIDE = 32
_SAME_DISTANCE = 60.0
# RGB distance from the background's colour beyond which a pixel belongs to the subject; the
# nearest two palette colours are about 85 apart.
_SUBJECT_DISTANCE = 45.0
_FEWEST_SUBJECT_PIXELS = 40
# Offsets of the subject's middle, as a share of the side, that still count as the centre.
_CENTER = 0.065


def nearest_colours(pixels: NDArray[np.float32]) -> NDArray[np.intp]:
    """Palette indices of (..., 3) pixels."""
    distance = ((pixels[..., None, :] - _TABLE) ** 2).sum(-1)
    nearest: NDArray[np.intp] = distance.argmin(-1)
    return nearest


def background_of(picture: Pixels) -> str:
    """The background whose colours at the upper and the lower edge are nearest to the picture's."""
    edges = [picture[:_BORDER], picture[-_BORDER:]]
    medians = [np.median(edge.reshape(-1, 3), axis=0) for edge in edges]
    return min(
        _EDGES,
        key=lambda name: sum(
            float(np.linalg.norm(median - np.array(colour)))
            for median, colour in zip(medians, _EDGES[name], strict=True)
        ),
    )


def subject_pixels(picture: Pixels, background: str, colour: str) -> NDArray[np.bool_]:
    """Which pixels belong to the subject: before one colour, all that differ from it; before a
    scene, those of the subject's own colour."""
    pixels = picture.astype(np.float32)
    if background in COLOURS:
        different: NDArray[np.bool_] = _distance(pixels, background) > _SUBJECT_DISTANCE
        return different
    near: NDArray[np.bool_] = _distance(pixels, colour) < _SAME_DISTANCE
    return near


def _distance(pixels: NDArray[np.float32], colour: str) -> NDArray[np.float32]:
    difference = pixels - np.array(COLOURS[colour], dtype=np.float32)
    distance: NDArray[np.float32] = np.sqrt((difference**2).sum(-1))
    return distance


def subject_crop(picture: Pixels, background: str, colour: str) -> Pixels:
    """The subject as (32, 32, 4), its mask as the last channel: a square around its pixels."""
    mask = subject_pixels(picture, background, colour)
    stacked = np.dstack([picture, mask.astype(np.uint8) * 255])
    rows, columns = np.nonzero(mask)
    if len(rows) < _FEWEST_SUBJECT_PIXELS:
        return np.zeros((CROP_SIDE, CROP_SIDE, 4), dtype=np.uint8)
    # A scene has specks of the subject's colour elsewhere: leave out the outermost pixels.
    margin = 0.5 if background in COLOURS else 3
    top, bottom = np.percentile(rows, [margin, 100 - margin])
    left, right = np.percentile(columns, [margin, 100 - margin])
    half = 0.55 * max(bottom - top, right - left) + 1
    middle_y, middle_x = (top + bottom) / 2, (left + right) / 2
    box = (middle_x - half, middle_y - half, middle_x + half, middle_y + half)
    image = Image.fromarray(stacked, "RGBA")
    crop = image.transform(
        (2 * CROP_SIDE, 2 * CROP_SIDE), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR
    )
    return np.asarray(crop.reduce(2))


def subject_colour(picture: Pixels, background: str) -> str:
    """The commonest palette colour among the subject's pixels; empty if there is no subject."""
    pixels = picture[subject_pixels(picture, background, "")]
    if len(pixels) < _FEWEST_SUBJECT_PIXELS:
        return ""
    votes = np.bincount(nearest_colours(pixels.astype(np.float32)), minlength=len(_NAMES))
    votes[_NAMES.index(background)] = 0
    return _NAMES[int(votes.argmax())]


def subject_position(picture: Pixels, background: str) -> str:
    """Where the middle of the subject's bounding box lies; empty if there is no subject."""
    rows, columns = np.nonzero(subject_pixels(picture, background, ""))
    if len(rows) < _FEWEST_SUBJECT_PIXELS:
        return ""
    height, width = picture.shape[:2]
    # The outermost half percent may be stray pixels.
    top, bottom = np.percentile(rows, [0.5, 99.5])
    left, right = np.percentile(columns, [0.5, 99.5])
    offset_x = (left + right) / 2 / width - 0.5
    offset_y = (top + bottom) / 2 / height - 0.5
    if max(abs(offset_x), abs(offset_y)) < _CENTER:
        return "center"
    if abs(offset_x) > abs(offset_y):
        return "left" if offset_x < 0 else "right"
    return "top" if offset_y < 0 else "bottom"
