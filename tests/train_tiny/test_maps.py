"""Maps say where the drawing's subject is, and lessons show the same thing every time."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from genserve.pipelines.skeleton import COLOURS as JOINT_COLOURS
from train_tiny.lessons import CANNY, DEPTH, FILL, POSE, draw_person_spec, person_sample
from train_tiny.maps import canny_map, depth_map, fill_mask, pose_map
from train_tiny.pairs import Lesson, loose_sample
from train_tiny.person import JOINTS
from train_tiny.scenes import BUCKETS, SceneSpec, draw

PLAIN = SceneSpec("heart", "red", "blue", "center", "large", "", "1:1", 7)
LESSONS = {lesson.name: lesson for lesson in (CANNY, DEPTH, FILL, POSE)}


def test_edges_lie_on_the_outline() -> None:
    drawing = draw(PLAIN)
    edges = canny_map(drawing.pixels)[..., 0] > 0
    partly = (drawing.mask > 0) & (drawing.mask < 255)
    near = np.zeros_like(partly)
    for rows in (-2, -1, 0, 1, 2):
        for columns in (-2, -1, 0, 1, 2):
            near |= np.roll(partly, (rows, columns), (0, 1))
    assert edges.sum() > 100
    assert (edges & ~near).sum() == 0


def test_depth_is_near_where_the_subject_is() -> None:
    drawing = draw(PLAIN)
    depth = depth_map(drawing, PLAIN)[..., 0].astype(int)
    assert depth[drawing.mask == 255].min() > depth[drawing.mask == 0].max() + 50
    rounded = depth[drawing.mask == 255]
    assert rounded.max() - rounded.min() > 20


def test_ground_comes_nearer_to_the_viewer() -> None:
    spec = replace(PLAIN, background="beach", size="small")
    depth = depth_map(draw(spec), spec)[:, 2, 0].astype(int)
    assert depth[0] < depth[80] < depth[-1]
    assert (np.diff(depth) >= 0).all()


def test_skeleton_has_each_joint_in_its_colour() -> None:
    spec = replace(PLAIN, subject="person", pose="waving")
    drawing = draw(spec)
    picture = pose_map(drawing)
    # Later joints may lie over earlier ones: the last is always to be seen.
    x, y = drawing.joints[JOINTS[-1]]
    assert tuple(picture[round(y), round(x)]) == JOINT_COLOURS[-1]
    assert not picture[0, 0].any()


def test_poses_without_a_name_are_many_and_fixed() -> None:
    rng = random.Random(2)
    specs = [replace(person_sample(rng, "1:1"), pose="", looseness=0.0) for _ in range(6)]
    wrists = {draw_person_spec(spec).joints["left_wrist"] for spec in specs}
    assert len(wrists) == 6
    first, again = draw_person_spec(specs[0]), draw_person_spec(specs[0])
    assert first.joints == again.joints


@pytest.mark.parametrize("seed", range(12))
def test_masks_have_the_picture_s_shape_and_two_values(seed: int) -> None:
    rng = random.Random(seed)
    drawing = draw(loose_sample(rng, rng.choice(list(BUCKETS))))
    mask = fill_mask(drawing, rng)
    assert mask.shape == drawing.mask.shape
    assert set(np.unique(mask)) <= {0, 255}
    assert (mask == 255).any()


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=LESSONS)
def test_lesson_shows_the_same_for_the_same_spec(lesson: Lesson) -> None:
    rng = random.Random(5)
    spec = lesson.sample(rng, "4:3")
    one, other = lesson.show(spec), lesson.show(spec)
    assert one.hint is not None
    assert other.hint is not None
    assert one.hint.shape[:2] == one.pixels.shape[:2] == (96, 128)
    assert np.array_equal(one.pixels, other.pixels)
    assert np.array_equal(one.hint, other.hint)
    captions = {lesson.caption(spec, random.Random(number)) for number in range(20)}
    assert len(captions) > 5
