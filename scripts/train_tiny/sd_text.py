"""The text encoder of tiny-sd15: a CLIP whose words the UNet attends to.

Taught to name what a caption says, as the base's encoders are (see `text`), both at its end mark
and on the mean of all 77 tokens: the marks that fill up a short prompt have read it too.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from .checkpoint import StageJob, run_stage, step_seed
from .text import HEADS, LEARNING_RATE, TEXT_BATCH, text_batch
from .text_tokenizers import build_clip_tokenizer

WIDTH = 128
# As the CLIP of Stable Diffusion 1.5.
MAX_TOKENS = 77
_Clip = TypeVar("_Clip", CLIPTextModel, CLIPTextModelWithProjection)


class SdText(nn.Module):
    """Tokenizer and encoder, called as StableDiffusionPipeline calls them."""

    def __init__(self, tokenizer: CLIPTokenizer, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.tokenizer, self.encoder = tokenizer, encoder

    def forward(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Sequence (batch, 77, 128) and the state of the end mark (batch, 128)."""
        read = read_captions(self.tokenizer, self.encoder, captions)
        return read.last_hidden_state, read.pooler_output


def read_captions(tokenizer: CLIPTokenizer, encoder: Any, captions: list[str]) -> Any:
    """A CLIP's outputs, with every layer's, as diffusers' pipelines ask for them."""
    ids = tokenizer(
        captions,
        padding="max_length",
        max_length=MAX_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return encoder(input_ids=ids.to(encoder.device), output_hidden_states=True)


def build_clip(kind: type[_Clip], width: int = WIDTH) -> tuple[CLIPTokenizer, _Clip]:
    """Untrained: two layers of `width`, and what the kind of encoder adds. 0.4 M parameters at a
    width of 128, 0.14 M at 64."""
    tokenizer = build_clip_tokenizer()
    tokenizer.model_max_length = MAX_TOKENS
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, kind(config)


class _Stage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text = SdText(*build_clip(CLIPTextModel))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(2 * WIDTH, len(values) + 1) for name, values in HEADS.items()}
        )

    def forward(self, captions: list[str]) -> dict[str, Tensor]:
        sequence, end = self.text(captions)
        both = torch.cat([sequence.mean(1), end], dim=1)
        return {name: self.heads[name](both) for name in HEADS}


def train_sd_text(folder: Path, seed: int, steps: int, device: torch.device) -> SdText:
    torch.manual_seed(step_seed(seed, "sd-text"))
    stage = _Stage().to(device)
    optimizer = torch.optim.AdamW(stage.parameters(), lr=LEARNING_RATE, weight_decay=0.0)

    def loss_at(step: int) -> Tensor:
        captions, labels = text_batch(random.Random(step_seed(seed, "sd-text", step)), TEXT_BATCH)
        answers = stage(captions)
        losses = [nnf.cross_entropy(answers[name], labels[name].to(device)) for name in HEADS]
        return torch.stack(losses).sum()

    run_stage(StageJob("text", folder, stage, (optimizer,), loss_at, steps))
    print("the text encoder names", _measure(stage, seed))
    return stage.text.eval().requires_grad_(False)


@torch.no_grad()
def _measure(stage: _Stage, seed: int, count: int = 500) -> dict[str, float]:
    """Share of captions whose attribute is named correctly."""
    captions, labels = text_batch(random.Random(step_seed(seed, "sd-text-measure")), count)
    answers = stage(captions)
    return {
        name: round((answers[name].argmax(1).cpu() == labels[name]).float().mean().item(), 4)
        for name in HEADS
    }
