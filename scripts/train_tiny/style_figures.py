"""Is a LoRA's style in what is drawn with it, the more the greater its weight, and only then?"""

from __future__ import annotations

import hashlib
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genserve.domain.lora import LoraSource
from genserve.domain.request import LoraRef
from genserve.pipelines.wardrobe import Wardrobe

from .canvas import Pixels
from .checkpoint import step_seed
from .evaluate import load_pipeline
from .member_figures import percent, prompt_of
from .painting import Order, common, in_batches
from .scenes import SceneSpec, sample_spec
from .style_classifier import StyleClassifier, style_odds

SAMPLES = 50
WEIGHTS = (0.0, 0.5, 1.0)
TARGET = 90.0
# Of the base's own pictures, taken for styled: what the classifier may be wrong about.
FALSE_TARGET = 10.0

StylePainter = Callable[[Sequence[Order], Mapping[str, float]], list[Pixels]]
"""Draws while LoRA files (by their names without ending) are worn, each with its weight."""
_FILES_BYTES = 64 * 2**20


def style_painter(base: Path, loras: Path) -> StylePainter:
    """The base in diffusers' pipeline, dressed by GenServe's wardrobe: it reads every layout."""
    pipeline = load_pipeline(base)
    networks = {name: getattr(pipeline, name) for name in ("transformer", "text_encoder")}
    wardrobe = Wardrobe("cpu", files_bytes=_FILES_BYTES)

    def paint(orders: Sequence[Order], weights: Mapping[str, float]) -> list[Pixels]:
        worn = [LoraRef(name=name, weight=weight) for name, weight in weights.items()]
        files = {name: source_of(loras / f"{name}.safetensors") for name in weights}
        wardrobe.wear(networks, worn, files)

        def draw_part(part: Sequence[Order]) -> Any:
            return pipeline(**common(pipeline, part)).images

        try:
            return in_batches(orders, " + ".join(weights) or "base", draw_part)
        finally:
            wardrobe.wear(networks)

    return paint


def source_of(path: Path) -> LoraSource:
    """A LoRA's file as the server's catalogue finds it."""
    stat = path.stat()
    return LoraSource(
        path=str(path.absolute()),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        size_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        inode=stat.st_ino,
    )


def style_orders(seed: int, count: int, cats: bool) -> list[Order]:
    """Held-out scenes by day, of cats alone if asked for."""
    rng = random.Random(step_seed(seed, "evaluate", "styles", cats))
    specs: list[SceneSpec] = []
    while len(specs) < count:
        spec = sample_spec(rng, held_out=True, natural_share=0.0)
        if spec.background != "night" and (not cats or spec.subject == "cat"):
            specs.append(spec)
    return [Order(prompt_of(spec, seed), number) for number, spec in enumerate(specs)]


def style_figures(
    painter: StylePainter,
    classifier: StyleClassifier,
    style: str,
    file: str,
    seed: int,
    count: int = SAMPLES,
) -> dict[str, float]:
    """`recognised`: percent of pictures at weight 1; `false`: of the base's own at weight 0;
    `odds`: the mean logarithmic odds at each weight, which must rise."""
    orders = style_orders(seed, count, cats=style == "cute_cat")
    odds = {
        weight: style_odds(classifier, painter(orders, {file: weight}))[style] for weight in WEIGHTS
    }
    figures = {
        "recognised": percent([value > 0 for value in odds[WEIGHTS[-1]]]),
        "false": percent([value > 0 for value in odds[0.0]]),
    }
    return figures | {
        f"odds at {weight:g}": round(statistics.mean(values), 2) for weight, values in odds.items()
    }


def both_figures(
    painter: StylePainter,
    classifier: StyleClassifier,
    files: Mapping[str, str],
    seed: int,
    count: int = SAMPLES,
) -> dict[str, float]:
    """Percent of pictures that show every one of the styles (style → file) worn at once."""
    orders = style_orders(seed, count, cats="cute_cat" in files)
    pictures = painter(orders, dict.fromkeys(files.values(), 1.0))
    odds = style_odds(classifier, pictures)
    seen = [all(odds[style][index] > 0 for style in files) for index in range(len(orders))]
    return {"recognised": percent(seen)}


def missed_style_targets(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    """In words, what of `figures` (LoRA → figures) is below its target."""
    missed = []
    for name, values in figures.items():
        if values["recognised"] < TARGET:
            missed.append(f"{name} recognised: {values['recognised']} < {TARGET}")
        if values.get("false", 0.0) > FALSE_TARGET:
            missed.append(f"{name} false: {values['false']} > {FALSE_TARGET}")
        rising = [value for key, value in values.items() if key.startswith("odds")]
        if rising != sorted(rising):
            missed.append(f"{name}: the weight does not scale it: {rising}")
    return missed
