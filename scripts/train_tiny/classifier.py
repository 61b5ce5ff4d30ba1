"""A small classifier of subjects, which judges what the model drew. It never sees a sample.

It looks at the subject cut out by `readings.subject_crop`, (4, 32, 32) with the mask as the last
channel, and was trained on such crops of drawings only, blurred and noised a little, so that it
judges shapes rather than the sharpness of their edges.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from .canvas import Pixels
from .checkpoint import StageJob, run_stage, step_seed
from .readings import subject_crop
from .scenes import BUCKETS, SUBJECTS, SceneSpec, draw, sample_spec

BATCH = 64


class SubjectClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 4
        for width in (32, 64, 96):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(channels * 16, len(SUBJECTS))

    def forward(self, crops: Tensor) -> Tensor:
        answer: Tensor = self.head(self.features(crops))
        return answer


def crops_of(pictures: list[Pixels], specs: list[SceneSpec]) -> Tensor:
    """The subjects of `pictures`, looked for in the colours that the specs name, in -1..1."""
    crops = [
        subject_crop(picture, spec.background, spec.colour)
        for picture, spec in zip(pictures, specs, strict=True)
    ]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1


def roughen(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the batches blurred by shrinking and enlarging; noise on all."""
    if torch.rand((), generator=generator) < 0.5:
        factor = 0.5 + 0.4 * torch.rand((), generator=generator).item()
        small = nnf.interpolate(crops, scale_factor=factor, mode="area")
        crops = nnf.interpolate(small, size=crops.shape[-2:], mode="bilinear")
    amount = 0.1 * torch.rand((), generator=generator)
    return crops + amount * torch.randn(crops.shape, generator=generator)


def classifier_batch(seed: int, step: int) -> tuple[Tensor, Tensor]:
    rng = random.Random(step_seed(seed, "classifier", step))
    specs = [sample_spec(rng, rng.choice(list(BUCKETS))) for _ in range(BATCH)]
    crops = crops_of([draw(spec).pixels for spec in specs], specs)
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    labels = torch.tensor([SUBJECTS.index(spec.subject) for spec in specs])
    return roughen(crops, generator), labels


def train_classifier(
    folder: Path, seed: int, steps: int, device: torch.device
) -> SubjectClassifier:
    torch.manual_seed(step_seed(seed, "classifier"))
    classifier = SubjectClassifier().to(device)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=0.01)

    def loss_at(step: int) -> Tensor:
        crops, labels = classifier_batch(seed, step)
        return nnf.cross_entropy(classifier(crops.to(device)), labels.to(device))

    run_stage(StageJob("classifier", folder, classifier, (optimizer,), loss_at, steps))
    return classifier


@torch.no_grad()
def name_subjects(
    classifier: SubjectClassifier, pictures: list[Pixels], specs: list[SceneSpec]
) -> list[str]:
    device = next(classifier.parameters()).device
    answers = classifier(crops_of(pictures, specs).to(device))
    return [SUBJECTS[index] for index in answers.argmax(1).tolist()]
