"""Trains tiny-sd15's UNet, and ControlNets beside it."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from .checkpoint import StageJob, run_stage, step_seed
from .flow import half_precision
from .pairs import Lesson, PairSet, pick
from .sd_base import CHANNELS, SdBase, noise_batch_of, noise_error
from .sd_text import WIDTH

BATCH = 32
RATE = 1.2e-3
# Muon's, see `flow_training.flow_optimizers`.
MATRIX_RATE = 6e-3
CONTROL_RATE = 1e-3
# Of the small convolutions that bring a map to the latents' size.
_HINT_CHANNELS = (8, 16, 24, 32)


def train_unet(
    folder: Path, base: SdBase, lesson: Lesson, sets: dict[str, PairSet], seed: int, steps: int
) -> UNet2DConditionModel:
    """Trains `base.unet` in place."""
    torch.manual_seed(step_seed(seed, lesson.name))
    unet = base.unet.requires_grad_(True)

    def loss_at(step: int) -> Tensor:
        batch = noise_batch_of(base, pick(sets, lesson, seed, step, BATCH))
        with half_precision(base.device):
            prediction = unet(batch.noisy, batch.times, **batch.told, return_dict=False)[0]
        return noise_error(prediction, batch)

    optimizers = unet_optimizers(unet)
    run_stage(StageJob("unet", folder, unet, optimizers, loss_at, steps, ema_decay=0.998))
    return unet


def unet_optimizers(unet: UNet2DConditionModel) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of the attention blocks, AdamW for the convolutions and all else."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, weight in unet.named_parameters():
        inside = ".attentions." in name and weight.ndim == 2
        (matrices if inside else others).append(weight)
    return (
        torch.optim.Muon(
            matrices, lr=MATRIX_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    )


def build_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """0.4 M parameters: the UNet's way down without its attention, which a map does not need.

    Convolutions start as the UNet's own.
    """
    controlnet = ControlNetModel(
        in_channels=4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * len(CHANNELS),
        mid_block_type="UNetMidBlock2D",
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
        conditioning_embedding_out_channels=_HINT_CHANNELS,
    )
    own = controlnet.state_dict()
    known = {
        name: value
        for name, value in unet.state_dict().items()
        if name in own and own[name].shape == value.shape
    }
    controlnet.load_state_dict(own | known)
    return controlnet.to(memory_format=torch.channels_last)


def train_sd_controlnet(
    folder: Path, base: SdBase, lesson: Lesson, sets: dict[str, PairSet], seed: int, steps: int
) -> ControlNetModel:
    torch.manual_seed(step_seed(seed, lesson.name))
    unet = base.unet.eval().requires_grad_(False)
    controlnet = build_controlnet(unet).to(base.device)
    optimizer = torch.optim.AdamW(
        controlnet.parameters(), lr=CONTROL_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )

    def loss_at(step: int) -> Tensor:
        picked = pick(sets, lesson, seed, step, BATCH)
        batch = noise_batch_of(base, picked)
        maps = (picked.hints.float() / 255).expand(-1, 3, -1, -1).to(base.device)
        with half_precision(base.device):
            down, middle = controlnet(
                batch.noisy, batch.times, **batch.told, controlnet_cond=maps, return_dict=False
            )
            prediction = unet(
                batch.noisy,
                batch.times,
                **batch.told,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
                return_dict=False,
            )[0]
        return noise_error(prediction, batch)

    job = StageJob("controlnet", folder, controlnet, (optimizer,), loss_at, steps, ema_decay=0.998)
    run_stage(job)
    return controlnet
