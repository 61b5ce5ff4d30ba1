"""The tiny Flux model that ships with the code, loaded once, and requests for it."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from genserve.domain.model import Capabilities, ModelSpec
from genserve.domain.request import GenerationRequest, Mode
from genserve.pipelines.base import Cancelled, Stage

TINY = Path(__file__).parents[2] / "models" / "tiny-flux-dev"


class Watcher:
    """A hook that keeps what it was told, and may cancel at a step."""

    attempt = 1

    def __init__(self, cancel_at: int | None = None) -> None:
        self.cancel_at = cancel_at
        self.steps: list[tuple[int, int]] = []
        self.stages: list[Stage] = []

    def stage(self, stage: Stage) -> None:
        self.stages.append(stage)

    def step(self, done: int, total: int) -> None:
        self.steps.append((done, total))
        if done == self.cancel_at:
            raise Cancelled


def tiny_spec(**changes: Any) -> ModelSpec:
    values = {
        "id": "tiny-flux-dev",
        "family": "flux",
        "folder": TINY,
        "capabilities": Capabilities(modes=(Mode.TEXT2IMG, Mode.IMG2IMG)),
        "upscale": True,
        "native_pixels": 16_384,
        "buckets": ((128, 128), (128, 96), (96, 128), (160, 96), (96, 160)),
    }
    return ModelSpec.model_validate(values | changes)


def request(**changes: Any) -> GenerationRequest:
    values = {
        "model": "tiny-flux-dev",
        "prompt": "a red cat on a blue background",
        "width": 64,
        "height": 64,
        "steps": 3,
        "guidance": 3.5,
        "seed": 1,
        "scheduler": "euler",
        "strength": 0.8,
    }
    return GenerationRequest.model_validate(values | changes)


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """Some picture to start from."""
    return Image.linear_gradient("L").resize((64, 64)).convert("RGB")
