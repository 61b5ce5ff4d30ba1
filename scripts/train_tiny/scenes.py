"""What a picture shows (`SceneSpec`), how specs are sampled, and how one is drawn.

A spec is sampled from a seed and drawn from the seed it carries, so a picture can be drawn again
from its spec alone. Five percent of the subject-colour-background triples, chosen by hash, are
never sampled for training: the evaluation asks for them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

from .animals import draw_cat, draw_lion, draw_swan
from .backdrops import SCENE_BACKDROPS
from .canvas import Canvas, Frame, Pixels, Point
from .palette import COLOURS, RGB
from .person import POSES, Pose, draw_person, solve_joints
from .shapes import (
    draw_circle,
    draw_fish,
    draw_flower,
    draw_heart,
    draw_house,
    draw_square,
    draw_star,
    draw_tree,
    draw_triangle,
)

# Every side is a multiple of 32: an even number of the transformer's 16-pixel tokens, so that the
# middle of the picture falls between two tokens in every shape. With an odd number a subject would
# lie half a token off, and the model would have to learn each shape once more for every bucket.
BUCKETS: dict[str, tuple[int, int]] = {
    "1:1": (128, 128),
    "4:3": (128, 96),
    "3:4": (96, 128),
    "16:9": (160, 96),
    "9:16": (96, 160),
}

_PAINTERS: dict[str, Callable[[Canvas, RGB, random.Random], None]] = {
    "cat": draw_cat,
    "lion": draw_lion,
    "swan": draw_swan,
    "fish": draw_fish,
    "house": draw_house,
    "tree": draw_tree,
    "flower": draw_flower,
    "star": draw_star,
    "heart": draw_heart,
    "circle": draw_circle,
    "square": draw_square,
    "triangle": draw_triangle,
}
SUBJECTS = (*_PAINTERS, "person")
MIRRORED = frozenset({"cat", "lion", "swan", "fish", "person"})
BACKGROUNDS = (*COLOURS, *SCENE_BACKDROPS)
POSITIONS = ("center", "left", "right", "top", "bottom")
# Half the subject's extent in pixels, in every bucket: the largest just fits 96 pixels.
SIZES: dict[str, float] = {"small": 18, "medium": 30, "large": 42}
# "left" and the like are whole numbers of the transformer's 16-pixel tokens away from the middle,
# so that a subject looks the same to it wherever it stands.
GRID = 16
_MARGIN = 2

# Colours that a subject has when nobody names one.
NATURAL_COLOURS: dict[str, tuple[str, ...]] = {
    "cat": ("orange", "gray", "white", "orange"),
    "lion": ("orange", "brown", "orange"),
    "swan": ("white",),
    "fish": ("orange", "blue"),
    "house": ("red", "yellow", "white"),
    "tree": ("green",),
    "flower": ("red", "pink", "yellow"),
    "star": ("yellow",),
    "heart": ("red", "pink"),
    "person": ("blue", "red"),
}
_NATURAL_SHARE = 0.25

# Subjects that would vanish in a scene of much the same colour.
_HIDDEN_IN_SCENE = {
    ("green", "garden"),
    ("cyan", "garden"),
    ("blue", "night"),
    ("black", "night"),
    ("yellow", "beach"),
    ("cyan", "beach"),
}
_HELD_OUT_PERCENT = 5
# Below this looseness every subject faces the same way.
_MIRRORS_ABOVE = 0.5


@dataclass(frozen=True)
class SceneSpec:
    """One picture. `pose` is empty unless the subject is a person.

    `looseness` scales the chance in place, size and limbs. The flow learns from pictures of little
    of it: where every edge may lie anywhere, a model this small draws blobs for a long time.
    """

    subject: str
    colour: str
    background: str
    position: str
    size: str
    pose: str
    bucket: str
    seed: int
    looseness: float = 1.0

    @property
    def triple(self) -> tuple[str, str, str]:
        return self.subject, self.colour, self.background


@dataclass(frozen=True)
class Drawing:
    """A drawn spec: picture (height, width, 3), mask (height, width), joints in pixels."""

    pixels: Pixels
    mask: Pixels
    joints: dict[str, Point]


def is_held_out(triple: tuple[str, str, str]) -> bool:
    digest = hashlib.sha256("/".join(triple).encode()).digest()
    return digest[0] * 256 + digest[1] < 65536 * _HELD_OUT_PERCENT // 100


def is_drawable(triple: tuple[str, str, str]) -> bool:
    _, colour, background = triple
    return colour != background and (colour, background) not in _HIDDEN_IN_SCENE


def sample_spec(
    rng: random.Random,
    bucket: str = "1:1",
    held_out: bool = False,
    natural_share: float = _NATURAL_SHARE,
    looseness: float = 1.0,
) -> SceneSpec:
    """A spec at random: from the held-out triples if asked for, from all the others if not."""
    while True:
        subject = rng.choice(SUBJECTS)
        colour = rng.choice(tuple(COLOURS))
        if subject in NATURAL_COLOURS and rng.random() < natural_share:
            colour = rng.choice(NATURAL_COLOURS[subject])
        triple = (subject, colour, rng.choice(BACKGROUNDS))
        if is_drawable(triple) and is_held_out(triple) == held_out:
            break
    while True:
        position = "center" if rng.random() < 0.35 else rng.choice(POSITIONS)
        size = rng.choice(("small", "medium", "medium", "large"))
        if position == "center" or any(offset_of(position, size, bucket)):
            break
    pose = rng.choice(tuple(POSES)) if subject == "person" else ""
    return SceneSpec(*triple, position, size, pose, bucket, rng.getrandbits(32), looseness)


def offset_of(position: str, size: str, bucket: str) -> tuple[int, int]:
    """How far from the picture's middle a position is, in pixels to the right and down.

    (0, 0) for a position other than the centre means that the subject is too large for it.
    """
    step_x, step_y = {
        "center": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1),
    }[position]  # fmt: skip
    width, height = BUCKETS[bucket]
    return step_x * _reach(width, SIZES[size]), step_y * _reach(height, SIZES[size])


def _reach(side: int, radius: float) -> int:
    """At most about a quarter of the side, and no farther than the subject stays inside."""
    room = min(side / 2 - radius - _MARGIN, 0.27 * side)
    return max(0, int(room // GRID) * GRID)


def frame_of(spec: SceneSpec, rng: random.Random) -> Frame:
    """Where the subject stands, a little off by chance where the spec is loose."""
    width, height = BUCKETS[spec.bucket]
    offset_x, offset_y = offset_of(spec.position, spec.size, spec.bucket)
    spread, jitter = 0.06 * spec.looseness, 2.5 * spec.looseness
    mirrored = spec.subject in MIRRORED and rng.random() < 0.5
    return Frame(
        width / 2 + offset_x + rng.uniform(-jitter, jitter),
        height / 2 + offset_y + rng.uniform(-jitter, jitter),
        SIZES[spec.size] * rng.uniform(1 - spread, 1 + spread),
        mirrored and spec.looseness > _MIRRORS_ABOVE,
    )


def draw(spec: SceneSpec, pose: Pose | None = None) -> Drawing:
    """The picture of a spec; a `pose` replaces the one that the spec names."""
    rng = random.Random(spec.seed)
    width, height = BUCKETS[spec.bucket]
    frame = frame_of(spec, rng)
    canvas = Canvas(width, height, COLOURS.get(spec.background, (0, 0, 0)))
    if spec.background in SCENE_BACKDROPS:
        SCENE_BACKDROPS[spec.background](canvas, rng)
    canvas.frame = frame
    colour = COLOURS[spec.colour]
    joints: dict[str, Point] = {}
    if spec.subject == "person":
        unit_joints = solve_joints(pose or POSES[spec.pose], rng, spec.looseness)
        draw_person(canvas, colour, unit_joints)
        joints = {name: frame.to_pixels(point) for name, point in unit_joints.items()}
    else:
        _PAINTERS[spec.subject](canvas, colour, rng)
    return Drawing(canvas.pixels(), canvas.mask(), joints)
