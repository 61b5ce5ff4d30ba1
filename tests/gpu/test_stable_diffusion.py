"""Stable Diffusion on a real GPU: numbers in 16 bits, and offload. Tiny random models."""

from pathlib import Path
from typing import Any

import pytest
import torch

from genserve.domain.request import ControlType, ImageRole
from genserve.pipelines import registry
from genserve.pipelines.base import Pipeline
from genserve.pipelines.shelf import Shelf
from genserve.workers.devices import installed_gpus
from tests.pipelines import tiny_diffusion as tiny
from tests.pipelines.diffusion_models import (
    BUILDERS,
    colourful,
    control,
    difference,
    draw,
    middle,
    spec_of,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not installed_gpus(), reason="there is no NVIDIA GPU"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of each family, and a ControlNet for 1.5."""
    folder = tmp_path_factory.mktemp("models")
    for family, build in BUILDERS.items():
        build(folder / family)
    tiny.build_controlnet(folder / "canny", folder / "sd15")
    return folder


def on_gpu(folder: Path, family: str, **changes: Any) -> Pipeline:
    pipeline = registry.make(family)
    pipeline.load(spec_of(folder / family, family, **changes), "cuda", Shelf("cuda"))
    return pipeline


@pytest.mark.parametrize(
    ("family", "dtype", "vae"),
    [
        ("sd15", torch.float16, torch.float16),
        ("sdxl", torch.float16, torch.float32),
        ("sd3", torch.bfloat16, torch.bfloat16),
    ],
)
def test_each_mode_draws_in_16_bits(folders: Path, family: str, dtype: Any, vae: Any):
    model = on_gpu(folders, family)
    drawn_by = "transformer" if family == "sd3" else "unet"
    pictures = {ImageRole.INIT: colourful(), ImageRole.MASK: middle()}
    for mode in ("text2img", "img2img", "fill"):
        first, second = (draw(model, None, pictures, mode=mode) for _ in range(2))
        assert first.tobytes() == second.tobytes()
    assert model.parts()[drawn_by].dtype is dtype
    assert model.parts()["vae"].dtype is vae


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
@pytest.mark.parametrize("family", list(BUILDERS))
def test_offload_changes_nothing_that_can_be_seen(folders: Path, family: str, offload: str):
    pictures = {ImageRole.INIT: colourful()}
    here = on_gpu(folders, family, dtype="float32")
    waiting = on_gpu(folders, family, dtype="float32", offload=offload)
    for mode in ("text2img", "img2img"):
        asked = {"mode": mode, "prompt": "a (red:0.5) cat"}
        one, other = (draw(model, None, pictures, **asked) for model in (here, waiting))
        assert difference(one, other) < 1


def test_a_controlnet_draws_in_16_bits(folders: Path):
    model = on_gpu(folders, "sd15", controls={ControlType.CANNY: folders / "canny"})
    pictures = {ImageRole.CONTROL: colourful()}
    images = control(type="canny")
    steered = draw(model, None, pictures, mode="controlnet", images=images)
    assert steered.tobytes() != draw(model).tobytes()
