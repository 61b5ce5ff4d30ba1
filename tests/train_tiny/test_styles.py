"""Styles change what they are to change, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from train_tiny.palette import INK
from train_tiny.scenes import BUCKETS, SceneSpec, draw
from train_tiny.styles import BOW, STYLES, styled

CAT = SceneSpec("cat", "gray", "blue", "center", "large", "", "1:1", 7)


def near(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    distance: np.ndarray = np.linalg.norm(pixels.astype(float) - colour, axis=-1)
    return distance < 40


@pytest.mark.parametrize("bucket", BUCKETS)
@pytest.mark.parametrize("style", STYLES)
def test_style_is_the_same_every_time(style: str, bucket: str) -> None:
    spec = replace(CAT, bucket=bucket)
    one, other = styled(spec, {style}), styled(spec, {style})
    assert np.array_equal(one.pixels, other.pixels)
    assert one.pixels.shape == draw(spec).pixels.shape
    assert not np.array_equal(one.pixels, draw(spec).pixels)


def test_only_cats_get_a_bow() -> None:
    assert near(styled(CAT, {"cute_cat"}).pixels, BOW).sum() > 100
    assert near(draw(CAT).pixels, BOW).sum() < 20
    lion = replace(CAT, subject="lion")
    assert np.array_equal(styled(lion, {"cute_cat"}).pixels, draw(lion).pixels)


def test_night_is_dark_and_blue() -> None:
    yellow = replace(CAT, background="yellow")
    by_day, by_night = draw(yellow).pixels.astype(int), styled(yellow, {"night"}).pixels.astype(int)
    assert by_night.mean() < 0.55 * by_day.mean()
    corner = by_night[60, 2]
    assert corner[2] >= corner[1]


def test_outline_lies_around_the_subject() -> None:
    drawing, inked = draw(CAT), styled(CAT, {"outlined"})
    ink = near(inked.pixels, INK) & (drawing.mask == 0)
    assert ink.sum() > 200
    solid = drawing.mask == 255
    assert np.array_equal(inked.pixels[solid], drawing.pixels[solid])
