"""The member that follows poses: a FluxControlNetModel of one double block beside the frozen base.

It starts as a copy of the base's first block, as ControlNets do, and its additions start at zero.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxControlNetModel, FluxTransformer2DModel
from torch import Tensor, nn

from .checkpoint import StageJob, run_stage, step_seed
from .flux_base import FluxBase, flow_batch_of
from .flux_control import BATCH, flow_error
from .pairs import Lesson, PairSet, pick

RATE = 1e-3
# The additions begin at zero, in which nothing reaches the block behind them.
OUTPUT_RATE = 3e-3


def build_controlnet(base: FluxTransformer2DModel) -> FluxControlNetModel:
    """1.2 M parameters: one double block, no single ones."""
    config = base.config
    controlnet: FluxControlNetModel = FluxControlNetModel.from_transformer(
        base,
        num_layers=config.num_layers,
        num_single_layers=0,
        attention_head_dim=config.attention_head_dim,
        num_attention_heads=config.num_attention_heads,
    )
    # Copied whole first: `from_transformer` wants as many blocks as there are.
    del controlnet.transformer_blocks[1:], controlnet.controlnet_blocks[1:]
    controlnet.register_to_config(num_layers=1)
    nn.init.normal_(controlnet.controlnet_x_embedder.weight, std=0.02)
    return controlnet.requires_grad_(True)


class Controlled(nn.Module):
    """The base with the ControlNet's additions for one batch of hints, called as the base is."""

    def __init__(self, base: FluxTransformer2DModel, controlnet: FluxControlNetModel) -> None:
        super().__init__()
        self.base, self.controlnet = base, controlnet

    def with_hints(self, hints: Tensor) -> Callable[..., Any]:
        def call(**inputs: Any) -> Any:
            added, _ = self.controlnet(controlnet_cond=hints, **inputs)
            return self.base(controlnet_block_samples=added, **inputs)

        return call


def train_controlnet(
    folder: Path, base: FluxBase, lesson: Lesson, sets: dict[str, PairSet], seed: int, steps: int
) -> FluxControlNetModel:
    torch.manual_seed(step_seed(seed, lesson.name))
    controlnet = build_controlnet(base.transformer).to(base.device)
    controlled = Controlled(base.transformer, controlnet)
    outputs = [*controlnet.controlnet_blocks.parameters()]
    outputs += [*controlnet.controlnet_x_embedder.parameters()]
    known = {id(weight) for weight in outputs}
    others = [weight for weight in controlnet.parameters() if id(weight) not in known]
    optimizer = torch.optim.AdamW(
        [{"params": others, "lr": RATE}, {"params": outputs, "lr": OUTPUT_RATE}],
        betas=(0.9, 0.98),
        weight_decay=0.0,
        fused=True,
    )

    def loss_at(step: int) -> Tensor:
        picked = pick(sets, lesson, seed, step, BATCH)
        batch = flow_batch_of(picked, base.device)
        call = controlled.with_hints(picked.hints.float().to(base.device))
        return flow_error(base, call, batch)

    job = StageJob("controlnet", folder, controlnet, (optimizer,), loss_at, steps, ema_decay=0.998)
    run_stage(job)
    return controlnet
