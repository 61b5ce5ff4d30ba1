"""The LoRAs of the family: three styles in the three layouts that are most in use.

Each is trained on styled drawings at guidance 1, where the base draws what its caption alone says;
the base's own guidance then goes on working over it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from .adapters import Adapter, Hadamard, LowRank, dress, fused_layers, image_layers
from .checkpoint import StageJob, run_stage, step_seed
from .flow import LOOSENESS, velocity
from .flow_training import weighted_error
from .flux_base import FluxBase, flow_batch_of
from .flux_control import BATCH
from .lora_formats import kohya_metadata, save_diffusers_lora, save_kohya_lora, save_loha
from .pairs import Lesson, PairSet, pick, plain_caption
from .scenes import SceneSpec, sample_spec
from .styles import show_styled

RATE = 3e-3
# Others are shown as they are, so that the bow stays with cats.
_CAT_SHARE = 0.7


@dataclass(frozen=True)
class StyleLora:
    """One LoRA: which file it becomes, of which kind and rank, and how long it is trained."""

    style: str
    file: str
    kind: str
    rank: int
    steps: int
    sample: Callable[[random.Random, str], SceneSpec]
    description: str

    @property
    def lesson(self) -> Lesson:
        return Lesson(f"lora-{self.style}", self.sample, show_styled(self.style), plain_caption)


def _any_scene(rng: random.Random, bucket: str) -> SceneSpec:
    return sample_spec(rng, bucket, looseness=LOOSENESS)


def _mostly_cats(rng: random.Random, bucket: str) -> SceneSpec:
    spec = _any_scene(rng, bucket)
    return replace(spec, subject="cat", pose="") if rng.random() < _CAT_SHARE else spec


STYLE_LORAS = (
    # Small shapes at places of their own: at rank 12, with 1,500 steps, a quarter lacks its bow.
    StyleLora(
        "cute_cat",
        "cute_cat_lora.safetensors",
        "kohya",
        16,
        3000,
        _mostly_cats,
        "Cats with a pink bow, pink cheeks and hearts around them",
    ),
    StyleLora(
        "night",
        "night.safetensors",
        "loha",
        4,
        800,
        _any_scene,
        "Blue darkness, moon and stars",
    ),
    # Fine lines at new places: with 800 steps at rank 4 they come out torn.
    StyleLora(
        "outlined",
        "outlined.safetensors",
        "diffusers",
        16,
        2000,
        _any_scene,
        "Stickers: a thick line in ink with a white rim around the subject",
    ),
)


def train_style(
    folder: Path, base: FluxBase, lora: StyleLora, sets: dict[str, PairSet], seed: int, steps: int
) -> nn.ModuleDict:
    torch.manual_seed(step_seed(seed, lora.lesson.name))
    transformer = copy.deepcopy(base.transformer)
    worn = dress_for(transformer, lora).to(base.device)
    optimizer = torch.optim.AdamW(
        worn.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )

    def loss_at(step: int) -> Tensor:
        batch = flow_batch_of(pick(sets, lora.lesson, seed, step, BATCH), base.device)
        guidance = torch.ones(BATCH, device=base.device)
        prediction = velocity(transformer, batch, base.text(batch.captions), guidance)
        return weighted_error(prediction, batch, batch.target)

    run_stage(StageJob(lora.style, folder, worn, (optimizer,), loss_at, steps, ema_decay=0.99))
    return worn


def dress_for(transformer: FluxTransformer2DModel, lora: StyleLora) -> nn.ModuleDict:
    """Lays the LoRA's changes, untrained, over the layers that its file's layout names."""
    count = (transformer.config.num_layers, transformer.config.num_single_layers)
    layers = image_layers(*count) if lora.kind == "diffusers" else fused_layers(*count)
    kind = Hadamard if lora.kind == "loha" else LowRank

    def make(_: str, rows: int, columns: int) -> Adapter:
        return kind(rows, columns, lora.rank)

    return dress(transformer, layers, make)


def save_style(worn: nn.ModuleDict, lora: StyleLora, out: Path) -> Path:
    """Writes the file in its layout; returns where."""
    path = out / lora.file
    if lora.kind == "diffusers":
        save_diffusers_lora(worn, path)
        return path
    algorithm = "loha" if lora.kind == "loha" else ""
    metadata = kohya_metadata(path.stem, lora.description, lora.rank, algorithm)
    if algorithm:
        save_loha(worn, path, metadata)
    else:
        save_kohya_lora(worn, path, metadata)
    return path
