"""Training examples of the family's further members: pictures, each with what it is steered by.

A `Lesson` says which drawings a member sees, what is shown beside each (its hint), and how captions
speak of them. Pictures are drawn and encoded once and kept beside the checkpoints; each step picks
from them by (seed, member, step) alone, with a new caption every time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from .canvas import Pixels
from .captions import caption, choose_attributes
from .checkpoint import step_seed, write_atomically
from .flow import BUCKET_SHARES, CAPTION_DROPOUT
from .scenes import SceneSpec, sample_spec

_AT_ONCE = 32


@dataclass(frozen=True)
class Shown:
    """One example: the picture (height, width, 3), how much its pixels count beyond 1 (height,
    width; 255 is most), and its hint, (height, width, channels) of any size, or None."""

    pixels: Pixels
    emphasis: Pixels
    hint: Pixels | None = None


@dataclass(frozen=True)
class Lesson:
    """What a member learns from. `dropout`: the share of examples without a caption."""

    name: str
    sample: Callable[[random.Random, str], SceneSpec]
    show: Callable[[SceneSpec], Shown]
    caption: Callable[[SceneSpec, random.Random], str]
    dropout: float = CAPTION_DROPOUT


class Codec(Protocol):
    """How a base model sees pictures."""

    fingerprint: str

    def latents(self, pictures: Tensor) -> Tensor:
        """Of pictures (batch, 3, height, width) in -1..1."""
        ...

    def weights(self, masks: Tensor) -> Tensor:
        """Of masks (batch, 1, height, width) in 0..1, in the latents' layout without channels."""
        ...

    def hints(self, hints: Tensor) -> Tensor:
        """What the member sees of hints (batch, channels, height, width) in 0..255, 8 bits."""
        ...


@dataclass
class PairSet:
    """The examples of one bucket. Nothing but specs where a member has no hints: width 0."""

    specs: list[SceneSpec]
    latents: Tensor
    weights: Tensor
    hints: Tensor


@dataclass
class Picked:
    """One step's examples, and the generator of its noise."""

    bucket: str
    latents: Tensor
    weights: Tensor
    hints: Tensor
    captions: list[str]
    generator: torch.Generator


def spec_rng(spec: SceneSpec, purpose: str) -> random.Random:
    """Chance that belongs to one picture: what is shown beside it is always the same."""
    return random.Random(step_seed(spec.seed, purpose))


def loose_sample(rng: random.Random, bucket: str) -> SceneSpec:
    """Any scene, anywhere near its place, in either direction: the hint says where exactly."""
    return sample_spec(rng, bucket, looseness=rng.uniform(0.0, 3.0))


def placeless_caption(spec: SceneSpec, rng: random.Random) -> str:
    """A caption that mostly leaves place, size and pose to the hint."""
    named = choose_attributes(spec, rng)
    if rng.random() < 0.7:
        named -= {"position", "size", "pose"}
    return caption(spec, rng, named=named)


def plain_caption(spec: SceneSpec, rng: random.Random) -> str:
    return caption(spec, rng)


@torch.no_grad()
def encode_pairs(
    lesson: Lesson, codec: Codec, bucket: str, count: int, seed: int, device: torch.device
) -> PairSet:
    rng = random.Random(step_seed(seed, lesson.name, "pairs", bucket))
    specs = [lesson.sample(rng, bucket) for _ in range(count)]
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in tqdm(range(0, count, _AT_ONCE), desc=f"{lesson.name} {bucket}", mininterval=5):
        shown = [lesson.show(spec) for spec in specs[start : start + _AT_ONCE]]
        pictures = _stack([one.pixels for one in shown]).float() / 127.5 - 1
        masks = _stack([one.emphasis[..., None] for one in shown]).float() / 255
        weights = codec.weights(masks).half()
        hints = torch.zeros(len(shown), 0)
        if shown[0].hint is not None:
            stacked = _stack([one.hint for one in shown if one.hint is not None])
            hints = codec.hints(stacked.to(device)).cpu()
        parts.append((codec.latents(pictures.to(device)).half().cpu(), weights, hints))
    latents, weights, hints = (torch.cat(column) for column in zip(*parts, strict=True))
    return PairSet(specs, latents, weights, hints)


def _stack(pictures: list[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def load_pairs(
    folder: Path, lesson: Lesson, codec: Codec, count: int, seed: int, device: torch.device
) -> dict[str, PairSet]:
    """Draws and encodes the examples, once: later runs with the same base read them back."""
    path = folder / "pairs.pt"
    made_for = [lesson.name, codec.fingerprint, count, seed]
    stored = torch.load(path, weights_only=True) if path.exists() else {}
    numbers = {bucket: max(1, round(count * share)) for bucket, share in BUCKET_SHARES.items()}
    if stored.get("made_for") == made_for:
        sets = {}
        for bucket, number in numbers.items():
            rng = random.Random(step_seed(seed, lesson.name, "pairs", bucket))
            specs = [lesson.sample(rng, bucket) for _ in range(number)]
            sets[bucket] = PairSet(specs, *stored[bucket])
        return sets
    sets = {
        bucket: encode_pairs(lesson, codec, bucket, number, seed, device)
        for bucket, number in numbers.items()
    }
    kept = {name: [pairs.latents, pairs.weights, pairs.hints] for name, pairs in sets.items()}
    write_atomically(path, {"made_for": made_for, **kept})
    return sets


def pick(sets: dict[str, PairSet], lesson: Lesson, seed: int, step: int, size: int) -> Picked:
    """`size` examples of one bucket, some of them without a caption."""
    rng = random.Random(step_seed(seed, lesson.name, step))
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    bucket = rng.choices(list(BUCKET_SHARES), list(BUCKET_SHARES.values()))[0]
    pairs = sets[bucket]
    picks = torch.randint(len(pairs.specs), (size,), generator=generator)
    captions = [
        "" if rng.random() < lesson.dropout else lesson.caption(pairs.specs[index], rng)
        for index in picks.tolist()
    ]
    return Picked(
        bucket,
        pairs.latents[picks].float(),
        pairs.weights[picks].float(),
        pairs.hints[picks],
        captions,
        generator,
    )
