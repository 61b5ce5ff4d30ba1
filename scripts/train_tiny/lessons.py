"""What the members that follow a picture learn from, and from which drawings they are measured."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from .captions import caption, choose_attributes
from .flow import LOOSENESS
from .maps import (
    fill_mask,
    loose_canny_map,
    loose_depth_map,
    pose_map,
    random_pose,
)
from .pairs import Lesson, Shown, loose_sample, placeless_caption, spec_rng
from .person import POSES
from .scenes import Drawing, SceneSpec, draw, sample_spec

# How often a person takes one of the named poses, and its caption may say so.
_NAMED_POSE_SHARE = 0.3
# How many of the pictures to fill have their subject anywhere near its place.
_LOOSE_FILL_SHARE = 0.35


def _show_canny(spec: SceneSpec) -> Shown:
    drawing = draw(spec)
    return Shown(drawing.pixels, drawing.mask, loose_canny_map(drawing, spec_rng(spec, "canny")))


def _show_depth(spec: SceneSpec) -> Shown:
    drawing = draw(spec)
    hint = loose_depth_map(drawing, spec, spec_rng(spec, "depth"))
    return Shown(drawing.pixels, drawing.mask, hint)


def _fill_sample(rng: random.Random, bucket: str) -> SceneSpec:
    """Mostly as the base knows scenes: a mask says no more than about where a subject is to be,
    and its shape has to be known."""
    loose = rng.random() < _LOOSE_FILL_SHARE
    return sample_spec(rng, bucket, looseness=rng.uniform(0.0, 2.0) if loose else LOOSENESS)


def _show_fill(spec: SceneSpec) -> Shown:
    """The hint's fourth channel is the mask; what is to be painted counts most."""
    drawing = draw(spec)
    mask = fill_mask(drawing, spec_rng(spec, "fill"))
    return Shown(drawing.pixels, mask, np.dstack([drawing.pixels, mask]))


def _fill_caption(spec: SceneSpec, rng: random.Random) -> str:
    """The background can mostly be seen and is often left out."""
    named = choose_attributes(spec, rng)
    for name, share in (("background", 0.4), ("position", 0.7), ("size", 0.5)):
        if rng.random() < share:
            named -= {name}
    return caption(spec, rng, named=named)


def person_sample(rng: random.Random, bucket: str) -> SceneSpec:
    """A person of some size, in a named pose or, without one, in any (see `draw_person_spec`)."""
    while True:
        spec = sample_spec(rng, bucket, looseness=rng.uniform(0.0, 3.0))
        if spec.subject == "person" and (spec.size != "small" or rng.random() < 0.3):
            break
    return spec if rng.random() < _NAMED_POSE_SHARE else replace(spec, pose="")


def draw_person_spec(spec: SceneSpec) -> Drawing:
    """A person without a named pose takes one at random, always the same for the same spec."""
    if spec.pose in POSES:
        return draw(spec)
    return draw(spec, random_pose(spec_rng(spec, "pose")))


def _show_pose(spec: SceneSpec) -> Shown:
    drawing = draw_person_spec(spec)
    return Shown(drawing.pixels, drawing.mask, pose_map(drawing))


CANNY = Lesson("canny", loose_sample, _show_canny, placeless_caption)
DEPTH = Lesson("depth", loose_sample, _show_depth, placeless_caption)
FILL = Lesson("fill", _fill_sample, _show_fill, _fill_caption)
POSE = Lesson("openpose", person_sample, _show_pose, placeless_caption)
