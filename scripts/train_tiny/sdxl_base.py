"""tiny-sdxl: tiny-sd15's VAE and text encoder, a second text encoder, and a UNet of its own.

As in Stable Diffusion XL, both encoders are read at their last layer but one, side by side, the
second one's projection and the picture's size are told besides, and no caption is all zeros.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as nnf
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from .checkpoint import StageJob, run_stage, step_seed
from .scenes import BUCKETS
from .sd_base import SdBase
from .sd_text import WIDTH, SdText, build_clip, read_captions
from .text import HEADS, LEARNING_RATE, TEXT_BATCH, text_batch

CHANNELS = (32, 56)
# Of the second text encoder. As in Stable Diffusion XL, its width is not the first one's.
SECOND_WIDTH = 64
# Of each of the six numbers that tell sizes.
_SIZE_WIDTH = 16


def build_sdxl_unet() -> UNet2DConditionModel:
    """0.9 M parameters, built as tiny-sd15's; what is left of the family's 30 MB holds no more."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH + SECOND_WIDTH,
        # Of heads, whatever it is called: diffusers keeps an old mistake here.
        attention_head_dim=4,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=_SIZE_WIDTH,
        projection_class_embeddings_input_dim=SECOND_WIDTH + 6 * _SIZE_WIDTH,
    ).to(memory_format=torch.channels_last)


class SdxlText(nn.Module):
    """Both text encoders, called as StableDiffusionXLPipeline calls them."""

    def __init__(
        self, first: SdText, tokenizer: CLIPTokenizer, second: CLIPTextModelWithProjection
    ) -> None:
        super().__init__()
        self.first, self.tokenizer, self.second = first, tokenizer, second

    def forward(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Sequence (batch, 77, 192) and pooled (batch, 64); all zeros for empty captions."""
        first = read_captions(self.first.tokenizer, self.first.encoder, captions)
        second, pooled = self.read_second(captions)
        said = torch.tensor([bool(text) for text in captions], device=pooled.device).float()
        sequence = torch.cat([first.hidden_states[-2], second], dim=2) * said[:, None, None]
        return sequence, pooled * said[:, None]

    def read_second(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """(batch, 77, 64) and (batch, 64)"""
        read = read_captions(self.tokenizer, self.second, captions)
        return read.hidden_states[-2], read.text_embeds


class _Stage(nn.Module):
    """The second encoder, with heads that name what a caption says, on all that it gives."""

    def __init__(self, first: SdText) -> None:
        super().__init__()
        self.text = SdxlText(first, *build_clip(CLIPTextModelWithProjection, SECOND_WIDTH))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(2 * SECOND_WIDTH, len(values) + 1) for name, values in HEADS.items()}
        )

    def forward(self, captions: list[str]) -> dict[str, Tensor]:
        sequence, pooled = self.text.read_second(captions)
        both = torch.cat([sequence.mean(1), pooled], dim=1)
        return {name: self.heads[name](both) for name in HEADS}


def train_sdxl_text(
    folder: Path, first: SdText, seed: int, steps: int, device: torch.device
) -> SdxlText:
    """Trains the second encoder; `first` stays as it is."""
    torch.manual_seed(step_seed(seed, "sdxl-text"))
    first.eval().requires_grad_(False)
    stage = _Stage(first).to(device)
    weights = [weight for weight in stage.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0)

    def loss_at(step: int) -> Tensor:
        captions, labels = text_batch(random.Random(step_seed(seed, "sdxl-text", step)), TEXT_BATCH)
        answers = stage(captions)
        losses = [nnf.cross_entropy(answers[name], labels[name].to(device)) for name in HEADS]
        return torch.stack(losses).sum()

    run_stage(StageJob("text", folder, stage, (optimizer,), loss_at, steps))
    return stage.text.eval().requires_grad_(False)


class SdxlBase(SdBase):
    """As `SdBase`; the UNet is also told the pooled text and the picture's size."""

    @torch.no_grad()
    def told(self, captions: list[str], bucket: str) -> dict[str, Any]:
        sequence, pooled = self.text(captions)
        width, height = BUCKETS[bucket]
        # Original size, where it was cropped, and the size that is asked for.
        sizes = torch.tensor([height, width, 0, 0, height, width], device=pooled.device)
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(captions), -1)}
        return {"encoder_hidden_states": sequence, "added_cond_kwargs": added}
