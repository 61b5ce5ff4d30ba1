"""The members that take a picture beside the noise: depth, canny and fill.

As in FLUX.1 Depth, Canny and Fill the transformer's input is widened: beside the 64 numbers of a
token come those of the control picture (64) or of the masked picture and its mask (320). Two ways
to train: a Control-LoRA (FLUX.1 Depth [dev] LoRA's way), which is a small file and needs the base
beside it, or the whole transformer.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from .adapters import LowRank, dress, image_layers, modulation_layers
from .checkpoint import StageJob, run_stage, step_seed
from .flow import FlowBatch, sample_guidance, velocity
from .flow_training import flow_optimizers, guided_target, weighted_error
from .flux_base import FluxBase, flow_batch_of
from .pairs import Lesson, PairSet, pick

BATCH = 32
RANK = 32
# The widened input is new, so its change is not to be a low-rank one.
INPUT_RANK = 128
ADAPTER_RATE = 3e-3
GUIDED_RATE = 1e-3
# A trained transformer needs gentler steps than a new one.
WHOLE_RATE_SHARE = 0.4


def widened(transformer: FluxTransformer2DModel, added: int) -> FluxTransformer2DModel:
    """A copy that takes `added` more numbers per token, and at first does nothing with them."""
    twin: FluxTransformer2DModel = copy.deepcopy(transformer)
    narrow = twin.x_embedder
    wide = nn.Linear(narrow.in_features + added, narrow.out_features).to(narrow.weight.device)
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[:, : narrow.in_features] = narrow.weight
        wide.bias.copy_(narrow.bias)
    twin.x_embedder = wide.requires_grad_(narrow.weight.requires_grad)
    twin.register_to_config(in_channels=wide.in_features, out_channels=narrow.in_features)
    return twin


def control_layers(transformer: FluxTransformer2DModel) -> dict[str, list[str]]:
    """What a Control-LoRA changes, by diffusers' names, the input first."""
    count = (transformer.config.num_layers, transformer.config.num_single_layers)
    ends = {name: [name] for name in ("x_embedder", "proj_out")}
    return ends | image_layers(*count) | modulation_layers(*count)


def control_adapter(name: str, rows: int, columns: int) -> LowRank:
    """A layer's change before training."""
    return LowRank(rows, columns, INPUT_RANK if name == "x_embedder" else RANK)


def train_control_lora(
    folder: Path, base: FluxBase, lesson: Lesson, sets: dict[str, PairSet], seed: int, steps: int
) -> nn.ModuleDict:
    """The trained changes by the names of `control_layers`, see `adapters.adapters_of`."""
    torch.manual_seed(step_seed(seed, lesson.name))
    transformer, worn = dressed(base, sets)
    optimizer = adapter_optimizer(worn, ADAPTER_RATE)

    def loss_at(step: int) -> Tensor:
        return control_loss(base, transformer, lesson, sets, seed, step)

    run_stage(StageJob("lora", folder, worn, (optimizer,), loss_at, steps, ema_decay=0.998))
    return worn


def dressed(
    base: FluxBase, sets: dict[str, PairSet]
) -> tuple[FluxTransformer2DModel, nn.ModuleDict]:
    """The base's transformer, widened for the hints, and the changes laid over its layers."""
    transformer = widened(base.transformer, added_numbers(sets))
    return transformer, dress(transformer, control_layers(transformer), control_adapter).to(
        base.device
    )


def adapter_optimizer(worn: nn.ModuleDict, rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        worn.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )


def distil_guidance(
    folder: Path,
    base: FluxBase,
    teaching: nn.ModuleDict,
    lesson: Lesson,
    sets: dict[str, PairSet],
    seed: int,
    steps: int,
) -> nn.ModuleDict:
    """Gives the guidance number its meaning back, as `flow_training` does for the base.

    The teacher wears what `train_control_lora` gave: asked with and without the caption, always
    with the hint, it gives the guided velocity. For a member whose hint says nothing of the shape:
    of what filled a mask without guidance, half could be recognised, with it two thirds.
    """
    teacher, taught = dressed(base, sets)
    taught.load_state_dict(teaching.state_dict())
    transformer, worn = dressed(base, sets)
    worn.load_state_dict(teaching.state_dict())
    teacher.eval().requires_grad_(False)
    nothing = base.text([""])

    def loss_at(step: int) -> Tensor:
        batch = control_batch(base, lesson, sets, step_seed(seed, "guided"), step)
        guidance = sample_guidance(BATCH, batch.generator).to(base.device)
        text = base.text(batch.captions)
        with torch.no_grad():
            empty = (nothing[0].expand_as(text[0]), nothing[1].expand_as(text[1]))
            conditional = velocity(teacher, batch, text, guidance)
            unconditional = velocity(teacher, batch, empty, guidance)
            target = guided_target(conditional, unconditional, guidance, batch.times)
        return weighted_error(velocity(transformer, batch, text, guidance), batch, target)

    optimizer = adapter_optimizer(worn, GUIDED_RATE)
    run_stage(StageJob("guided", folder, worn, (optimizer,), loss_at, steps, ema_decay=0.995))
    return worn


def train_whole(
    folder: Path, base: FluxBase, lesson: Lesson, sets: dict[str, PairSet], seed: int, steps: int
) -> FluxTransformer2DModel:
    """The whole transformer, finetuned."""
    torch.manual_seed(step_seed(seed, lesson.name))
    transformer = widened(base.transformer, added_numbers(sets)).requires_grad_(True)
    optimizers = flow_optimizers(transformer)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] *= WHOLE_RATE_SHARE

    def loss_at(step: int) -> Tensor:
        return control_loss(base, transformer, lesson, sets, seed, step)

    run_stage(StageJob("whole", folder, transformer, optimizers, loss_at, steps, ema_decay=0.998))
    return transformer


def added_numbers(sets: dict[str, PairSet]) -> int:
    """How many numbers per token the hints are."""
    return next(iter(sets.values())).hints.shape[-1]


def control_loss(
    base: FluxBase,
    transformer: FluxTransformer2DModel,
    lesson: Lesson,
    sets: dict[str, PairSet],
    seed: int,
    step: int,
) -> Tensor:
    """The flow's error. Guidance is fed at random and comes to mean little: the hint says what is
    where, and guiding would pull every shape to the place where the caption alone expects it."""
    return flow_error(base, transformer, control_batch(base, lesson, sets, seed, step))


def control_batch(
    base: FluxBase, lesson: Lesson, sets: dict[str, PairSet], seed: int, step: int
) -> FlowBatch:
    """Noise and hints side by side."""
    picked = pick(sets, lesson, seed, step, BATCH)
    batch = flow_batch_of(picked, base.device)
    batch.noisy = torch.cat([batch.noisy, picked.hints.float().to(base.device)], dim=2)
    return batch


def flow_error(base: FluxBase, transformer: Any, batch: FlowBatch) -> Tensor:
    """The weighted error of a velocity that is told the caption and some guidance."""
    guidance = sample_guidance(BATCH, batch.generator).to(base.device)
    prediction = velocity(transformer, batch, base.text(batch.captions), guidance)
    return weighted_error(prediction, batch, batch.target)
