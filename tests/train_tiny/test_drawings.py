"""Drawings come from their seed alone, and masks and joints say where the subject is."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from train_tiny.palette import COLOURS
from train_tiny.person import JOINTS
from train_tiny.readings import background_of, subject_colour, subject_position
from train_tiny.scenes import (
    BUCKETS,
    SUBJECTS,
    SceneSpec,
    draw,
    is_held_out,
    sample_spec,
)

PLAIN = SceneSpec("cat", "red", "blue", "center", "medium", "", "1:1", 7)


def test_same_spec_draws_the_same_picture() -> None:
    first, second = draw(PLAIN), draw(PLAIN)
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.mask, second.mask)
    assert not np.array_equal(first.pixels, draw(replace(PLAIN, seed=8)).pixels)


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("bucket", BUCKETS)
def test_mask_is_where_the_picture_differs_from_its_background(subject: str, bucket: str) -> None:
    pose = "waving" if subject == "person" else ""
    drawing = draw(replace(PLAIN, subject=subject, bucket=bucket, pose=pose))
    width, height = BUCKETS[bucket]
    assert drawing.pixels.shape == (height, width, 3)
    differs = (drawing.pixels != drawing.pixels[0, 0]).any(-1)
    assert np.array_equal(differs, drawing.mask > 0)


def test_subjects_keep_their_proportions_in_every_bucket() -> None:
    for bucket in BUCKETS:
        drawing = draw(replace(PLAIN, subject="circle", bucket=bucket))
        rows, columns = np.nonzero(drawing.mask > 127)
        assert abs(np.ptp(rows) - np.ptp(columns)) <= 1


def test_person_has_joints_inside_its_mask() -> None:
    drawing = draw(replace(PLAIN, subject="person", pose="walking"))
    assert tuple(drawing.joints) == JOINTS
    for x, y in drawing.joints.values():
        assert drawing.mask[round(y), round(x)] > 0


def test_readings_agree_with_specs() -> None:
    rng = random.Random(3)
    for _ in range(60):
        spec = sample_spec(rng, rng.choice(list(BUCKETS)), natural_share=0.0)
        pixels = draw(spec).pixels
        assert background_of(pixels) == spec.background
        if spec.background not in COLOURS:
            continue
        assert subject_colour(pixels, spec.background) == spec.colour
        assert subject_position(pixels, spec.background) == spec.position


def test_held_out_triples_are_a_twentieth_and_never_sampled_for_training() -> None:
    rng = random.Random(0)
    assert not any(is_held_out(sample_spec(rng).triple) for _ in range(2000))
    assert all(is_held_out(sample_spec(rng, held_out=True).triple) for _ in range(20))
    triples = [("cat", f"colour{a}", f"background{b}") for a in range(40) for b in range(40)]
    assert 0.03 < sum(map(is_held_out, triples)) / len(triples) < 0.07
