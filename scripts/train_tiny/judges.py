"""The two classifiers that judge what members draw, as files: tests use them without training.

`python scripts/train_tiny/train.py judges` writes them into tests/semantic/judges.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .classifier import SubjectClassifier
from .members import MemberRun, subject_classifier
from .style_classifier import StyleClassifier
from .style_member import style_judge

SUBJECTS_FILE, STYLES_FILE = "subjects.safetensors", "styles.safetensors"
_Judge = TypeVar("_Judge", bound=nn.Module)


def train_judges(run: MemberRun) -> None:
    if run.wants("train"):
        run.out.mkdir(parents=True, exist_ok=True)
        _save(subject_classifier(run), run.out / SUBJECTS_FILE)
        _save(style_judge(run), run.out / STYLES_FILE)


def load_judges(folder: Path) -> tuple[SubjectClassifier, StyleClassifier]:
    return (
        _load(SubjectClassifier(), folder / SUBJECTS_FILE),
        _load(StyleClassifier(), folder / STYLES_FILE),
    )


def _save(judge: nn.Module, path: Path) -> None:
    """In 16 bits, which changes no judgement."""
    tensors = {
        name: value.to("cpu", torch.float16 if value.is_floating_point() else value.dtype)
        for name, value in judge.state_dict().items()
    }
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)


def _load(judge: _Judge, path: Path) -> _Judge:
    judge.load_state_dict(load_file(path))
    return judge.eval()
