"""The member that sees: a small SigLIP and Redux' projection, 64 words for a picture.

Trained in two stages. First each word is to be what the base's T5 makes of a word of a plain
caption; heads that name subject, colour and the rest, and are thrown away afterwards, help the
encoder to look at the right things. Then through the frozen base: told nothing but the picture's
words behind an empty prompt's, it is to predict what it predicts when it is told the caption, at
the same noise and guidance. (The second stage alone learns nothing: as long as the words say
nothing, the base does not listen to them.)
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPriorReduxPipeline
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as nnf
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from . import vocabulary as words
from .canvas import Pixels
from .checkpoint import StageJob, run_stage, step_seed
from .flow import half_precision, sample_guidance, velocity
from .flow_training import weighted_error
from .flux_base import FluxBase, flow_batch_of
from .flux_control import BATCH
from .pairs import Lesson, PairSet, Shown, pick
from .scenes import BUCKETS, SceneSpec, draw, sample_spec
from .text import HEADS, SEQUENCE_WIDTH, targets
from .text_tokenizers import MAX_TOKENS

SIDE = 96
# The smallest subject covers a quarter of the side: nine patches.
PATCH = 12
WIDTH = 128
WORDS = (SIDE // PATCH) ** 2
SIGHT_BATCH = 64
SIGHT_RATE = 1e-3
# Muon's, see `flow_training.flow_optimizers`.
SIGHT_MATRIX_RATE = 5e-3
# Of the heads' errors beside that of the words.
_HEADS_SHARE = 0.5
RATE = 5e-4


def extractor() -> SiglipImageProcessorPil:
    """Squeezes any picture into a square, to -1..1, as SigLIP's own does."""
    return SiglipImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


class ReduxStage(nn.Module):
    """What is trained and kept: 0.9 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=WIDTH,
                intermediate_size=3 * WIDTH,
                num_hidden_layers=4,
                num_attention_heads=4,
                image_size=SIDE,
                patch_size=PATCH,
                # Pools what nobody reads.
                vision_use_head=False,
            )
        )
        self.image_embedder = ReduxImageEncoder(redux_dim=WIDTH, txt_in_features=SEQUENCE_WIDTH)

    def forward(self, pictures: Tensor) -> Tensor:
        """(batch, 3, 96, 96) in -1..1 to (batch, 64, 128)."""
        return self.say(self.see(pictures))

    def see(self, pictures: Tensor) -> Tensor:
        seen: Tensor = self.image_encoder(pixel_values=pictures).last_hidden_state
        return seen

    def say(self, seen: Tensor) -> Tensor:
        said: Tensor = self.image_embedder(seen).image_embeds
        return said


class SightStage(nn.Module):
    """What the first stage trains: what is kept, and heads on the mean of what is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = ReduxStage()
        self.heads = nn.ModuleDict(
            {name: nn.Linear(WIDTH, len(values) + 1) for name, values in HEADS.items()}
        )


def _show(spec: SceneSpec) -> Shown:
    """The reference is the drawing itself, squeezed as the extractor does."""
    drawing = draw(spec)
    return Shown(drawing.pixels, drawing.mask, squeezed(drawing.pixels))


def squeezed(picture: Pixels) -> Pixels:
    image = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _sample(rng: random.Random, bucket: str) -> SceneSpec:
    return sample_spec(rng, bucket, looseness=rng.uniform(0.0, 1.0))


def plain_words(spec: SceneSpec, _: random.Random | None = None) -> str:
    """Everything there is to say of a scene, always in the same words and order."""
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


def train_sight(folder: Path, base: FluxBase, seed: int, steps: int) -> ReduxStage:
    """The first stage: the picture's words are to be those of its plain caption.

    Drawings are fresh in each step. From 8,000 of them the encoder learns their colours by heart
    and no shapes (a tenth of unseen pictures drawn with the right subject).
    """
    torch.manual_seed(step_seed(seed, "redux"))
    stage = SightStage().to(base.device)

    def loss_at(step: int) -> Tensor:
        specs = _sight_specs(random.Random(step_seed(seed, "sight", step)), SIGHT_BATCH)
        pictures = _look(np.stack([squeezed(draw(spec).pixels) for spec in specs]))
        return sight_error(base, stage, specs, pictures.to(base.device))

    optimizers = sight_optimizers(stage)
    run_stage(StageJob("sight", folder, stage, optimizers, loss_at, steps, ema_decay=0.998))
    print("the encoder names", measure_sight(stage, seed))
    return stage.kept


def _sight_specs(rng: random.Random, count: int) -> list[SceneSpec]:
    return [_sample(rng, rng.choice(list(BUCKETS))) for _ in range(count)]


@torch.no_grad()
def measure_sight(stage: SightStage, seed: int, count: int = 500) -> dict[str, float]:
    """Share of unseen drawings, of triples that are never trained, named correctly."""
    rng = random.Random(step_seed(seed, "sight-measure"))
    specs = [sample_spec(rng, rng.choice(list(BUCKETS)), held_out=True) for _ in range(count)]
    pictures = _look(np.stack([squeezed(draw(spec).pixels) for spec in specs]))
    mean = stage.kept.see(pictures.to(next(stage.parameters()).device)).mean(1)
    labels = targets(specs, [frozenset(HEADS)] * count)
    return {
        name: round(
            (stage.heads[name](mean).argmax(1).cpu() == labels[name]).float().mean().item(), 4
        )
        for name in HEADS
    }


def sight_error(
    base: FluxBase, stage: SightStage, specs: list[SceneSpec], pictures: Tensor
) -> Tensor:
    """Of the words, as a share of their variance, and of what the heads name."""
    with half_precision(base.device):
        seen = stage.kept.see(pictures)
        said = stage.kept.say(seen)
    # Two words for each of the caption's 32.
    wanted = base.text([plain_words(spec) for spec in specs])[0].repeat(1, WORDS // MAX_TOKENS, 1)
    words_error = nnf.mse_loss(said.float(), wanted) / wanted.var()
    labels = targets(specs, [frozenset(HEADS)] * len(specs))
    mean = seen.float().mean(1)
    named = [nnf.cross_entropy(stage.heads[n](mean), labels[n].to(mean.device)) for n in HEADS]
    return words_error + _HEADS_SHARE * torch.stack(named).sum()


def sight_optimizers(stage: SightStage) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices inside the encoder's layers, AdamW for all else."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, weight in stage.named_parameters():
        (matrices if ".layers." in name and weight.ndim == 2 else others).append(weight)
    return (
        torch.optim.Muon(
            matrices, lr=SIGHT_MATRIX_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=SIGHT_RATE, weight_decay=0.01, fused=True),
    )


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
        with half_precision(base.device):
            said = stage(picked.hints.float().to(base.device) / 127.5 - 1).float()
        sequence = torch.cat([nothing[0].expand(BATCH, -1, -1), said], dim=1)
        text = (sequence, nothing[1].expand(BATCH, -1))
        return weighted_error(velocity(base.transformer, batch, text, guidance), batch, wanted)

    run_stage(StageJob("redux", folder, stage, (optimizer,), loss_at, steps, ema_decay=0.998))
    return stage


def _look(pictures: NDArray[np.uint8]) -> Tensor:
    """(batch, 96, 96, 3) to what the encoder is given."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def redux_pipeline(stage: ReduxStage) -> FluxPriorReduxPipeline:
    """In the folder layout of FLUX.1 Redux [dev]."""
    return FluxPriorReduxPipeline(
        image_encoder=stage.image_encoder,
        feature_extractor=extractor(),
        image_embedder=stage.image_embedder,
    )
