"""Schedulers, noise levels, clip_skip, VAEs and control ranges: what fits a model, and defaults."""

import json
from pathlib import Path
from typing import Any

import pytest

from genserve.config import Config
from genserve.core.catalog import Catalog
from genserve.domain.request import Control, FileRef, GenerationRequest, ImageRole, InputImage
from genserve.errors import (
    BadControlRange,
    ContradictingSigmas,
    InvalidRequest,
    SchedulerWithoutSigmas,
    UnknownScheduler,
    UnknownVae,
    UnsupportedClipSkip,
    UnsupportedSigmas,
    UnsupportedVae,
)
from tests.store.tensors import safetensors

PICTURE = FileRef(sha256="0" * 64, media_type="image/png", width=8, height=8, size_bytes=100)
SD: dict[str, Any] = {
    "family": "sd15",
    "modes": ["text2img", "controlnet"],
    "controls": {"canny": "canny"},
    "schedulers": ["DPMSolverMultistepScheduler", "euler_a", "ddim"],
    "sigmas": ["karras", "beta"],
    "clip_skip": True,
    "vaes": True,
    "embeddings": True,
    "multiple_of": 8,
    "defaults": {"scheduler": "dpmpp_2m", "width": 512, "height": 512},
}
PLAIN: dict[str, Any] = {"family": "fake", "schedulers": ["euler"]}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A checkpoint, a ControlNet, a VAE and two embeddings, none with real weights."""
    models = tmp_path / "models"
    unet = {"model.diffusion_model.input_blocks.0.0.weight": (4, 4)}
    safetensors(models / "sd" / "model.safetensors", unet)
    (models / "sd" / "tokenizer").mkdir()
    safetensors(models / "canny" / "diffusion_pytorch_model.safetensors", {"x": (1,)})
    (models / "canny" / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    safetensors(models / "soft.safetensors", {"decoder.conv_in.weight": (4, 4)})
    safetensors(tmp_path / "embeddings" / "neg.safetensors", {"emb_params": (4, 8)})
    (tmp_path / "embeddings" / "old.pt").write_bytes(b"x")
    return tmp_path


@pytest.fixture
def catalog(folders: Path) -> Catalog:
    return catalog_of(folders)


def catalog_of(folders: Path, **changes: Any) -> Catalog:
    names = {"models_dir": "models", "loras_dir": "loras", "data_dir": "data"}
    paths = {name: folders / folder for name, folder in names.items()}
    models = {"sd": SD | changes, "plain": PLAIN}
    config = {**paths, "embeddings_dir": folders / "embeddings", "models": models}
    return Catalog(Config.model_validate(config))


def asks(model: str = "sd", **fields: Any) -> GenerationRequest:
    return GenerationRequest.model_validate({"model": model, "prompt": "x"} | fields)


def steered(**control: Any) -> GenerationRequest:
    image = InputImage(file=PICTURE, role=ImageRole.CONTROL, control=Control(**control))
    return asks(mode="controlnet", images=(image,))


@pytest.mark.parametrize(
    ("fields", "scheduler", "sigmas"),
    [
        ({}, "dpmpp_2m", None),
        ({"sigmas": "beta"}, "dpmpp_2m", "beta"),
        ({"scheduler": "DPM++ 2M Karras"}, "dpmpp_2m", "karras"),
        ({"scheduler": "DPM++ 2M Karras", "sigmas": "karras"}, "dpmpp_2m", "karras"),
        ({"scheduler": "EulerAncestralDiscreteScheduler"}, "euler_a", None),
        ({"scheduler": "DDIM"}, "ddim", None),
    ],
)
def test_a_schedulers_name_may_carry_its_levels(
    catalog: Catalog, fields: dict[str, Any], scheduler: str, sigmas: str | None
):
    catalog.check(asks(**fields))
    complete, _ = catalog.complete(asks(**fields))
    assert (complete.scheduler, complete.sigmas) == (scheduler, sigmas)


def test_a_models_default_may_carry_levels_too(folders: Path):
    own = catalog_of(folders, defaults={"scheduler": "DPM++ 2M Karras"})
    complete, _ = own.complete(asks())
    assert (complete.scheduler, complete.sigmas) == ("dpmpp_2m", "karras")
    own.check(asks(sigmas="beta"))
    complete, _ = own.complete(asks(sigmas="beta"))
    assert (complete.scheduler, complete.sigmas) == ("dpmpp_2m", "beta")
    complete, _ = own.complete(asks(scheduler="euler_a"))
    assert (complete.scheduler, complete.sigmas) == ("euler_a", None)


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (asks(scheduler="heun"), UnknownScheduler, "dpmpp_2m, euler_a, ddim"),
        (asks(scheduler="Euler a Exponential"), UnsupportedSigmas, "karras, beta"),
        (asks(sigmas="exponential"), UnsupportedSigmas, "sd has no noise levels spaced as expo"),
        (
            asks(scheduler="ddim", sigmas="karras"),
            SchedulerWithoutSigmas,
            "take one of: dpmpp_2m, euler_a",
        ),
        (
            asks(scheduler="DPM++ 2M Karras", sigmas="beta"),
            ContradictingSigmas,
            "scheduler DPM\\+\\+ 2M Karras names .* asks for beta",
        ),
        (asks("plain", sigmas="karras"), UnsupportedSigmas, "plain has no noise levels"),
        (asks("plain", clip_skip=2), UnsupportedClipSkip, "leave `clip_skip` out"),
        (asks("plain", vae="soft"), UnsupportedVae, "leave `vae` out"),
        (asks(vae="nope"), UnknownVae, "Available: soft"),
        (asks(vae="../soft"), UnknownVae, "Available: soft"),
        (steered(start=0.5, end=0.5), BadControlRange, "control_start 0.5 must be less"),
        (steered(start=0.9, end=0.1), BadControlRange, "control_end 0.1"),
    ],
)
def test_what_a_model_cannot_do_is_told(
    catalog: Catalog, request_: GenerationRequest, error: type[InvalidRequest], words: str
):
    with pytest.raises(error, match=words):
        catalog.check(request_)


@pytest.mark.parametrize(
    "request_",
    [
        asks(clip_skip=2),
        asks(clip_skip=12),
        asks("plain", clip_skip=1),
        asks("plain", clip_skip=0),
        asks(vae="soft"),
        steered(weight=0.0, start=0.2, end=0.9),
    ],
)
def test_what_it_can_do_passes(catalog: Catalog, request_: GenerationRequest):
    catalog.check(request_)


def test_a_spec_knows_the_files_that_a_request_may_name(catalog: Catalog, folders: Path):
    spec = catalog.entry("sd").spec
    assert spec.vaes == {"soft": folders / "models" / "soft.safetensors"}
    assert spec.embeddings == {"neg": folders / "embeddings" / "neg.safetensors"}
    other = catalog.entry("plain").spec
    assert other.vaes == other.embeddings == {}
    problems = [file.problem for file in catalog.extras.embeddings if file.problem is not None]
    assert len(problems) == 1
    assert "old.pt may run code" in problems[0]


def test_a_single_checkpoint_is_an_installed_model(catalog: Catalog, folders: Path):
    assert catalog.entry("sd").installed
    assert catalog.entry("sd").spec.folder == folders / "models" / "sd"
    safetensors(folders / "models" / "sd" / "model.safetensors", {"something": (1,)})
    entry = catalog_of(folders).entry("sd")
    assert not entry.installed
    assert "no checkpoint of Stable Diffusion" in (entry.problem or "")


def test_a_folder_without_the_safety_checker_is_whole(folders: Path):
    """It is never loaded, so nobody has to fetch it."""
    folder = folders / "models" / "whole"
    safetensors(folder / "unet" / "diffusion_pytorch_model.safetensors", {"x": (1,)})
    (folder / "unet" / "config.json").write_text("{}")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    assert catalog_of(folders, folder="whole").entry("sd").problem is None
