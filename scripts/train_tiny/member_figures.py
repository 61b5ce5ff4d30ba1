"""What members draw, measured: do they follow the picture that they were given, and the prompt?

Every measure draws with the painter that it is given (see `painting`) and reads pixels; subjects
are named by the classifier that saw only drawings. Scenes are of triples that were never trained,
except for poses, which are new by themselves.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from .canvas import Pixels
from .captions import caption
from .checkpoint import step_seed
from .classifier import SubjectClassifier, name_subjects
from .flow import LOOSENESS
from .lessons import draw_person_spec, person_sample
from .maps import canny_map, depth_map, pose_map
from .painting import Order, Painter
from .palette import COLOURS
from .readings import background_of, subject_colour, subject_pixels
from .scenes import Drawing, SceneSpec, draw, sample_spec

SAMPLES = 50
# Of edges: how far from the map's an edge may lie and still be on it, in pixels.
EDGE_SLACK = 1
# How far from the figure a joint may lie and still be hit: a tolerance, as in PCK (Yang and Ramanan
# 2013), whose usual one, a fifth of the torso, would be 2 to 5 pixels here.
JOINT_SLACK = 2
_LOOSENESS = 2.0
_NAMED = frozenset({"colour", "background"})

Figures = dict[str, float]


@dataclass(frozen=True)
class Asked:
    """Pictures to draw, and what they are to show: `drawings` are the originals of the hints."""

    orders: list[Order]
    specs: list[SceneSpec]
    drawings: list[Drawing]


Score = Callable[[Asked, Sequence[Pixels], SubjectClassifier], Figures]


@dataclass(frozen=True)
class Measure:
    """What a kind of member is asked (by a seed and a number), how its pictures are judged, and
    what is expected: of following the picture, what the family promises, and of following the
    prompt, about what the base reaches."""

    ask: Callable[[int, int], Asked]
    score: Score
    targets: Mapping[str, float]

    def missed(self, figures: Figures) -> list[str]:
        """In words, every figure that is below its target."""
        return [
            f"{name}: {figures[name]} < {target}"
            for name, target in self.targets.items()
            if figures[name] < target
        ]


def measured(
    measure: Measure,
    painter: Painter,
    classifier: SubjectClassifier,
    seed: int,
    count: int = SAMPLES,
) -> Figures:
    asked = measure.ask(seed, count)
    return measure.score(asked, painter(asked.orders), classifier)


def plain_specs(
    seed: int,
    purpose: str,
    count: int,
    sample: Callable[[random.Random], SceneSpec],
    looseness: float = _LOOSENESS,
) -> list[SceneSpec]:
    """Scenes before one colour, which can be read from pixels; of no fixed place, if loose."""
    rng = random.Random(step_seed(seed, "evaluate", purpose))
    specs: list[SceneSpec] = []
    while len(specs) < count:
        spec = sample(rng)
        if spec.background in COLOURS:
            specs.append(replace(spec, looseness=looseness))
    return specs


def held_out(rng: random.Random) -> SceneSpec:
    """A scene whose triple is never trained."""
    return sample_spec(rng, held_out=True, natural_share=0.0)


def prompt_of(spec: SceneSpec, seed: int, named: frozenset[str] = _NAMED) -> str:
    return caption(spec, random.Random(step_seed(seed, spec.seed)), "en", named)


def guided(
    purpose: str,
    hint: Callable[[Drawing, SceneSpec], Pixels],
    sample: Callable[[random.Random], SceneSpec] = held_out,
    drawn: Callable[[SceneSpec], Drawing] = draw,
) -> Callable[[int, int], Asked]:
    """Asks for scenes by their prompt and a hint that was made from a drawing of them."""

    def ask(seed: int, count: int) -> Asked:
        specs = plain_specs(seed, purpose, count, sample)
        drawings = [drawn(spec) for spec in specs]
        pairs = zip(specs, drawings, strict=True)
        orders = [
            Order(prompt_of(spec, seed), number, picture=hint(drawing, spec))
            for number, (spec, drawing) in enumerate(pairs)
        ]
        return Asked(orders, specs, drawings)

    return ask


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    union = float((one | other).sum())
    return float((one & other).sum()) / union if union else 1.0


def edge_f1(edges: Pixels, wanted: Pixels, slack: int = EDGE_SLACK) -> float:
    """How well two edge maps (height, width, 3) agree, if edges may lie `slack` pixels apart."""
    one, other = edges[..., 0] > 127, wanted[..., 0] > 127
    if not one.any() or not other.any():
        return 0.0
    reach = np.ones((2 * slack + 1,) * 2, np.uint8)
    near_one, near_other = (cv2.dilate(m.astype(np.uint8), reach) > 0 for m in (one, other))
    precision = float((one & near_other).sum() / one.sum())
    recall = float((other & near_one).sum() / other.sum())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def percent(right: Sequence[bool]) -> float:
    return round(100 * statistics.mean(right), 1)


def contents(asked: Asked, pictures: Sequence[Pixels], classifier: SubjectClassifier) -> Figures:
    """Percent of pictures whose background and subject are what was asked for."""
    pairs = list(zip(pictures, asked.specs, strict=True))
    named = name_subjects(classifier, list(pictures), asked.specs)
    right = [name == spec.subject for name, spec in zip(named, asked.specs, strict=True)]
    return {
        "subject": percent(right),
        "colour": percent([subject_colour(p, s.background) == s.colour for p, s in pairs]),
        "background": percent([background_of(p) == s.background for p, s in pairs]),
    }


def figure_masks(asked: Asked, pictures: Sequence[Pixels]) -> list[NDArray[np.bool_]]:
    """Where the subjects are in what was drawn."""
    return [
        subject_pixels(picture, spec.background, spec.colour)
        for picture, spec in zip(pictures, asked.specs, strict=True)
    ]


def mean_overlap(asked: Asked, pictures: Sequence[Pixels]) -> float:
    """Of where the subjects are and where the drawings have them."""
    masks = figure_masks(asked, pictures)
    pairs = zip(masks, asked.drawings, strict=True)
    return round(statistics.mean(overlap(mask, drawn.mask > 127) for mask, drawn in pairs), 3)


def score_depth(asked: Asked, pictures: Sequence[Pixels], classifier: SubjectClassifier) -> Figures:
    return {"iou": mean_overlap(asked, pictures), **contents(asked, pictures, classifier)}


def score_canny(asked: Asked, pictures: Sequence[Pixels], classifier: SubjectClassifier) -> Figures:
    maps = [order.picture for order in asked.orders if order.picture is not None]
    scores = [edge_f1(canny_map(p), m) for p, m in zip(pictures, maps, strict=True)]
    return {"edge_f1": round(statistics.mean(scores), 3), **contents(asked, pictures, classifier)}


def score_pose(asked: Asked, pictures: Sequence[Pixels], classifier: SubjectClassifier) -> Figures:
    """Also `joints`: percent of the joints within the picture that the figure reaches."""
    hits = []
    around = np.ones((2 * JOINT_SLACK + 1,) * 2, np.uint8)
    for drawn, drawing in zip(figure_masks(asked, pictures), asked.drawings, strict=True):
        figure = cv2.dilate(drawn.astype(np.uint8), around) > 0
        height, width = figure.shape
        places = [(round(x), round(y)) for x, y in drawing.joints.values()]
        inside = [(x, y) for x, y in places if 0 <= x < width and 0 <= y < height]
        hits += [bool(figure[y, x]) for x, y in inside]
    figures = {"iou": mean_overlap(asked, pictures), "joints": percent(hits)}
    return figures | contents(asked, pictures, classifier)


def ask_fill(seed: int, count: int) -> Asked:
    """Pictures in which a box around the subject is to hold another subject of another colour.

    The subjects stand where captions say, as the base knows them: the mask tells no shape.
    """
    rng = random.Random(step_seed(seed, "evaluate", "fill-wanted"))
    asked = Asked([], [], [])
    for number, spec in enumerate(plain_specs(seed, "fill", count, held_out, LOOSENESS)):
        while True:
            other = held_out(rng)
            if other.colour not in (spec.colour, spec.background) and other.subject != spec.subject:
                break
        drawing = draw(spec)
        mask = np.zeros(drawing.mask.shape, np.uint8)
        mask[_box(drawing, margin=4)] = 255
        wish = replace(spec, subject=other.subject, colour=other.colour, pose=other.pose)
        prompt = prompt_of(wish, seed, frozenset({"colour"}))
        asked.orders.append(Order(prompt, number, picture=drawing.pixels, mask=mask))
        asked.specs.append(wish)
        asked.drawings.append(drawing)
    return asked


def _box(drawing: Drawing, margin: int) -> tuple[slice, slice]:
    rows, columns = np.nonzero(drawing.mask > 127)
    return (
        slice(max(rows.min() - margin, 0), rows.max() + margin + 1),
        slice(max(columns.min() - margin, 0), columns.max() + margin + 1),
    )


def score_fill(asked: Asked, pictures: Sequence[Pixels], classifier: SubjectClassifier) -> Figures:
    """Also `outside`: the mean difference to the caller's pixels where nothing was masked, of 255,
    before the server puts those pixels back."""
    outside = []
    for order, picture in zip(asked.orders, pictures, strict=True):
        if order.picture is None or order.mask is None:
            raise TypeError("an order to fill has a picture and a mask")
        difference = np.abs(picture.astype(np.float64) - order.picture)
        outside.append(float(difference[order.mask == 0].mean()))
    return contents(asked, pictures, classifier) | {"outside": round(statistics.mean(outside), 2)}


def ask_redux(seed: int, count: int) -> Asked:
    """References to be drawn anew, without a prompt."""
    specs = plain_specs(seed, "redux", count, held_out)
    drawings = [draw(spec) for spec in specs]
    orders = [Order("", n, picture=drawing.pixels) for n, drawing in enumerate(drawings)]
    return Asked(orders, specs, drawings)


MEASURES: Mapping[str, Measure] = {
    "depth": Measure(
        guided("depth", depth_map),
        score_depth,
        {"iou": 0.6, "subject": 80.0, "colour": 90.0, "background": 90.0},
    ),
    "canny": Measure(
        guided("canny", lambda drawing, _: canny_map(drawing.pixels)),
        score_canny,
        {"edge_f1": 0.6, "subject": 80.0, "colour": 90.0, "background": 90.0},
    ),
    "openpose": Measure(
        guided(
            "openpose",
            lambda drawing, _: pose_map(drawing),
            lambda rng: person_sample(rng, "1:1"),
            draw_person_spec,
        ),
        score_pose,
        {"iou": 0.6, "joints": 90.0, "subject": 80.0, "colour": 90.0, "background": 90.0},
    ),
    "fill": Measure(ask_fill, score_fill, {"subject": 85.0, "colour": 90.0, "background": 90.0}),
    "redux": Measure(ask_redux, contents, {"subject": 85.0, "colour": 85.0, "background": 85.0}),
}
