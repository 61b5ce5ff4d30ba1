"""Names the styles of a picture, each by itself. It was trained on drawings only."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as nnf

from .canvas import Pixels
from .checkpoint import StageJob, run_stage, step_seed
from .classifier import roughen
from .pairs import loose_sample
from .scenes import BUCKETS, SceneSpec, draw
from .styles import STYLES, styled

NAMES = tuple(STYLES)
SIDE = 64
BATCH = 48
_STYLE_SHARE = 0.4
_CAT_SHARE = 0.5
# A style that a model draws may be paler than in its drawings: without such ones, pink cats with
# pale pink bows were not recognised.
_PALEST = 0.5


class StyleClassifier(nn.Module):
    """(batch, 3, 64, 64) in -1..1 to one number per style: its logarithmic odds."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in (24, 48, 64, 64):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(2 * channels, len(NAMES))

    def forward(self, pictures: Tensor) -> Tensor:
        seen = self.features(pictures)
        both = torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], dim=1)
        answer: Tensor = self.head(both)
        return answer


def thumbnails(pictures: Sequence[Pixels]) -> Tensor:
    """Squeezed to (batch, 3, 64, 64) in -1..1."""
    small = [
        np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX))
        for picture in pictures
    ]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1


def daylight_spec(rng: random.Random, bucket: str = "1:1") -> SceneSpec:
    """Any scene but the night sky, which a style could not be told from; often a cat."""
    cat = rng.random() < _CAT_SHARE
    while True:
        spec = loose_sample(rng, bucket)
        if spec.background != "night":
            return replace(spec, subject="cat", pose="") if cat else spec


def style_batch(seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Pictures, and which styles they have: (batch, styles) of 0 and 1."""
    rng = random.Random(step_seed(seed, "style-classifier", step))
    pictures, labels = [], []
    for _ in range(BATCH):
        spec = daylight_spec(rng, rng.choice(list(BUCKETS)))
        worn = {name for name in NAMES if rng.random() < _STYLE_SHARE}
        if spec.subject != "cat":
            worn -= {"cute_cat"}
        pictures.append(_paled(styled(spec, worn).pixels, spec, rng.uniform(_PALEST, 1.0)))
        labels.append([float(name in worn) for name in NAMES])
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    return roughen(thumbnails(pictures), generator), torch.tensor(labels)


def _paled(pixels: Pixels, spec: SceneSpec, share: float) -> Pixels:
    """A styled drawing with only so much of its style."""
    plain = draw(spec).pixels.astype(np.float32)
    return (plain + share * (pixels - plain)).round().astype(np.uint8)


def train_style_classifier(
    folder: Path, seed: int, steps: int, device: torch.device
) -> StyleClassifier:
    torch.manual_seed(step_seed(seed, "style-classifier"))
    classifier = StyleClassifier().to(device)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=0.01)

    def loss_at(step: int) -> Tensor:
        pictures, labels = style_batch(seed, step)
        answers = classifier(pictures.to(device))
        return nnf.binary_cross_entropy_with_logits(answers, labels.to(device))

    run_stage(StageJob("style-classifier", folder, classifier, (optimizer,), loss_at, steps))
    return classifier


@torch.no_grad()
def style_odds(classifier: StyleClassifier, pictures: Sequence[Pixels]) -> dict[str, list[float]]:
    """By style, each picture's logarithmic odds of having it: above 0 it is recognised."""
    device = next(classifier.parameters()).device
    answers = classifier(thumbnails(pictures).to(device)).cpu()
    return {name: answers[:, index].tolist() for index, name in enumerate(NAMES)}
