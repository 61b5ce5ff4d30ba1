"""The text encoders, and the stage that teaches them to name what a caption says.

T5 gives the sequence (32, 128) that the transformer attends to, CLIP the pooled vector (64,) that
modulates it. As in FluxPipeline, captions are padded to the full length and nothing is masked.
Training them through the flow loss alone left colours mostly wrong (see the first experiment);
with classifier heads they name every attribute within two minutes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from .captions import caption, choose_attributes
from .checkpoint import StageJob, run_stage, step_seed
from .palette import COLOURS
from .person import POSES
from .scenes import BACKGROUNDS, POSITIONS, SIZES, SUBJECTS, SceneSpec, sample_spec
from .text_tokenizers import MAX_TOKENS, build_clip_tokenizer, build_t5_tokenizer

SEQUENCE_WIDTH = 128
POOLED_WIDTH = 64
TEXT_BATCH = 64
LEARNING_RATE = 2e-3

# What the heads name; the class after the last stands for "the caption does not say".
HEADS: dict[str, tuple[str, ...]] = {
    "subject": SUBJECTS,
    "colour": tuple(COLOURS),
    "background": BACKGROUNDS,
    "position": POSITIONS,
    "size": tuple(SIZES),
    "pose": tuple(POSES),
}


class TextEncoders(nn.Module):
    """Both tokenizers and both encoders, called as FluxPipeline calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.t5_tokenizer = build_t5_tokenizer()
        self.clip_tokenizer = build_clip_tokenizer()
        self.t5 = T5EncoderModel(
            T5Config(
                vocab_size=len(self.t5_tokenizer),
                d_model=SEQUENCE_WIDTH,
                d_kv=32,
                d_ff=256,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
                is_encoder_decoder=False,
                use_cache=False,
            )
        )
        # Spread out, or binding a colour to its noun by place is learnt very late.
        bias = self.t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        nn.init.normal_(bias.weight, std=2.0)
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(self.clip_tokenizer),
                hidden_size=POOLED_WIDTH,
                intermediate_size=128,
                projection_dim=POOLED_WIDTH,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=MAX_TOKENS,
                bos_token_id=self.clip_tokenizer.bos_token_id,
                eos_token_id=self.clip_tokenizer.eos_token_id,
                pad_token_id=self.clip_tokenizer.pad_token_id,
            )
        )

    def forward(self, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Sequence (batch, 32, 128), pooled (batch, 64), and which tokens are not padding."""
        device = self.t5.device
        t5_ids = self._tokens(self.t5_tokenizer, captions).to(device)
        clip_ids = self._tokens(self.clip_tokenizer, captions).to(device)
        sequence = self.t5(input_ids=t5_ids).last_hidden_state
        pooled = self.clip(input_ids=clip_ids).pooler_output
        return sequence, pooled, t5_ids != self.t5_tokenizer.pad_token_id

    @staticmethod
    def _tokens(tokenizer: object, captions: Sequence[str]) -> Tensor:
        ids: Tensor = tokenizer(  # type: ignore[operator]
            list(captions),
            padding="max_length",
            max_length=MAX_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return ids


class AttributeHeads(nn.Module):
    """Reads every attribute off the mean of the sequence and, separately, off the pooled vector."""

    def __init__(self) -> None:
        super().__init__()
        self.from_sequence = nn.ModuleDict(
            {name: nn.Linear(SEQUENCE_WIDTH, len(values) + 1) for name, values in HEADS.items()}
        )
        self.from_pooled = nn.ModuleDict(
            {name: nn.Linear(POOLED_WIDTH, len(values) + 1) for name, values in HEADS.items()}
        )

    def forward(self, sequence: Tensor, pooled: Tensor, real: Tensor) -> dict[str, list[Tensor]]:
        weight = real[..., None].to(sequence.dtype)
        mean = (sequence * weight).sum(1) / weight.sum(1)
        return {
            name: [self.from_sequence[name](mean), self.from_pooled[name](pooled)] for name in HEADS
        }


class TextStage(nn.Module):
    """What the stage trains: the encoders that are kept and the heads that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = TextEncoders()
        self.heads = AttributeHeads()


def targets(specs: list[SceneSpec], named: list[frozenset[str]]) -> dict[str, Tensor]:
    """Class numbers per attribute; the number of classes stands for "not said"."""
    result = {}
    for name, values in HEADS.items():
        labels = []
        for spec, said in zip(specs, named, strict=True):
            value = getattr(spec, name)
            known = (name == "subject" or name in said) and value != ""
            labels.append(values.index(value) if known else len(values))
        result[name] = torch.tensor(labels)
    return result


def text_batch(rng: random.Random, count: int) -> tuple[list[str], dict[str, Tensor]]:
    specs = [sample_spec(rng, natural_share=0.1) for _ in range(count)]
    named = [choose_attributes(spec, rng) for spec in specs]
    captions = [caption(spec, rng, named=said) for spec, said in zip(specs, named, strict=True)]
    return captions, targets(specs, named)


def train_text(folder: Path, seed: int, steps: int, device: torch.device) -> TextEncoders:
    torch.manual_seed(step_seed(seed, "text"))
    stage = TextStage().to(device)
    optimizer = torch.optim.AdamW(stage.parameters(), lr=LEARNING_RATE, weight_decay=0.0)

    def loss_at(step: int) -> Tensor:
        captions, labels = text_batch(random.Random(step_seed(seed, "text", step)), TEXT_BATCH)
        answers = stage.heads(*stage.encoders(captions))
        losses = [
            nnf.cross_entropy(answer, labels[name].to(device))
            for name in HEADS
            for answer in answers[name]
        ]
        return torch.stack(losses).sum()

    run_stage(StageJob("text", folder, stage, (optimizer,), loss_at, steps))
    print("text encoders name", measure_text(stage, seed))
    return stage.encoders


@torch.no_grad()
def measure_text(stage: TextStage, seed: int, count: int = 1000) -> dict[str, list[float]]:
    """Share of captions whose attribute is named correctly: from the sequence, from the pooled."""
    captions, labels = text_batch(random.Random(step_seed(seed, "text-measure")), count)
    answers = stage.heads(*stage.encoders(captions))
    return {
        name: [
            round((answer.argmax(1).cpu() == labels[name]).float().mean().item(), 4)
            for answer in answers[name]
        ]
        for name in HEADS
    }
