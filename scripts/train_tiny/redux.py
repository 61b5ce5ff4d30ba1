"""The member that sees: a small SigLIP and Redux' projection, 16 words for a picture.

Trained in two stages. First each word is to be what the base's T5 makes of that word of a plain
caption. Then through the frozen base: told nothing but the picture's words behind an empty
prompt's, it is to predict what it predicts when it is told the caption, at the same noise and
guidance. (The second stage alone learns nothing: as long as the words say nothing, the base does
not listen to them.)
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPriorReduxPipeline
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as nnf
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from . import vocabulary as words
from .canvas import Pixels
from .checkpoint import StageJob, run_stage, step_seed
from .flow import sample_guidance, velocity
from .flow_training import weighted_error
from .flux_base import FluxBase, flow_batch_of
from .flux_control import BATCH
from .pairs import Lesson, PairSet, Shown, pick
from .scenes import SceneSpec, draw, sample_spec
from .text import SEQUENCE_WIDTH

SIDE = 64
PATCH = 16
WIDTH = 96
WORDS = (SIDE // PATCH) ** 2
SIGHT_BATCH = 64
SIGHT_RATE = 1.5e-3
RATE = 5e-4


def extractor() -> SiglipImageProcessorPil:
    """Squeezes any picture into a square, to -1..1, as SigLIP's own does."""
    return SiglipImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


class ReduxStage(nn.Module):
    """What is trained: 0.6 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=WIDTH,
                intermediate_size=3 * WIDTH,
                num_hidden_layers=3,
                num_attention_heads=4,
                image_size=SIDE,
                patch_size=PATCH,
                # Pools what nobody reads.
                vision_use_head=False,
            )
        )
        self.image_embedder = ReduxImageEncoder(redux_dim=WIDTH, txt_in_features=SEQUENCE_WIDTH)

    def forward(self, pictures: Tensor) -> Tensor:
        """(batch, 3, 64, 64) in -1..1 to (batch, 16, 128)."""
        seen = self.image_encoder(pixel_values=pictures).last_hidden_state
        said: Tensor = self.image_embedder(seen).image_embeds
        return said


def _show(spec: SceneSpec) -> Shown:
    """The reference is another drawing of the same scene, squeezed as the extractor does."""
    drawing = draw(spec)
    return Shown(drawing.pixels, drawing.mask, squeezed(drawing.pixels))


def squeezed(picture: Pixels) -> Pixels:
    image = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _sample(rng: random.Random, bucket: str) -> SceneSpec:
    return sample_spec(rng, bucket, looseness=rng.uniform(0.0, 1.0))


def plain_words(spec: SceneSpec, _: random.Random | None = None) -> str:
    """Everything there is to say of a scene, always in the same words and order: at most 16."""
    pose = f" {words.POSE_EN[spec.pose]}" if spec.pose else ""
    place = f"on a {spec.background} background"
    if spec.background in words.SCENE_EN:
        place = words.SCENE_EN[spec.background][0]
    position = words.POSITION_EN[spec.position][0]
    return f"a {spec.size} {spec.colour} {spec.subject}{pose} {place} {position}"


LESSON = Lesson("redux", _sample, _show, plain_words, dropout=0.0)


class ReduxCodec(FluxBase):
    """Hints are looked at as they are."""

    def hints(self, hints: Tensor) -> Tensor:
        return hints


def train_sight(
    folder: Path, base: FluxBase, sets: dict[str, PairSet], seed: int, steps: int
) -> ReduxStage:
    """The first stage: the picture's words are to be those of its plain caption."""
    torch.manual_seed(step_seed(seed, "redux"))
    stage = ReduxStage().to(base.device)
    optimizer = torch.optim.AdamW(stage.parameters(), lr=SIGHT_RATE, weight_decay=0.01, fused=True)

    def loss_at(step: int) -> Tensor:
        picked = pick(sets, LESSON, seed, step, SIGHT_BATCH)
        wanted = base.text(picked.captions)[0][:, :WORDS]
        return nnf.mse_loss(stage(_seen(base, picked.hints)), wanted) / wanted.var()

    run_stage(StageJob("sight", folder, stage, (optimizer,), loss_at, steps, ema_decay=0.998))
    return stage


def train_redux(
    folder: Path, base: FluxBase, stage: ReduxStage, sets: dict[str, PairSet], seed: int, steps: int
) -> ReduxStage:
    """The second stage, through the base."""
    optimizer = torch.optim.AdamW(
        stage.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    nothing = base.text([""])

    def loss_at(step: int) -> Tensor:
        picked = pick(sets, LESSON, seed + 1, step, BATCH)
        batch = flow_batch_of(picked, base.device)
        guidance = sample_guidance(BATCH, batch.generator).to(base.device)
        with torch.no_grad():
            wanted = velocity(base.transformer, batch, base.text(batch.captions), guidance)
        said = stage(_seen(base, picked.hints))
        sequence = torch.cat([nothing[0].expand(BATCH, -1, -1), said], dim=1)
        text = (sequence, nothing[1].expand(BATCH, -1))
        return weighted_error(velocity(base.transformer, batch, text, guidance), batch, wanted)

    run_stage(StageJob("redux", folder, stage, (optimizer,), loss_at, steps, ema_decay=0.998))
    return stage


def _seen(base: FluxBase, hints: Tensor) -> Tensor:
    return hints.float().to(base.device) / 127.5 - 1


def redux_pipeline(stage: ReduxStage) -> FluxPriorReduxPipeline:
    """In the folder layout of FLUX.1 Redux [dev]."""
    return FluxPriorReduxPipeline(
        image_encoder=stage.image_encoder,
        feature_extractor=extractor(),
        image_embedder=stage.image_embedder,
    )
