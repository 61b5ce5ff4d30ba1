"""Models that need others beside them: bases, ControlNets, single files."""

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file

from genserve.config import Config
from genserve.core.catalog import Catalog
from genserve.domain.request import ControlType, FileRef, GenerationRequest, ImageRole, Mode
from genserve.errors import (
    ConfigError,
    ControlNotInstalled,
    MaskSizeMismatch,
    ModelBroken,
    ModelNotInstalled,
    UnsupportedControlWeight,
)
from tests.core.test_catalog import install

FLUX = {"family": "flux"}
BASE: dict[str, Any] = {
    "dev": FLUX | {"modes": ["text2img", "img2img", "fill"], "buckets": [[128, 128]]},
    "pose": FLUX | {"base": "dev", "controls": {"openpose": "pose"}, "modes": ["controlnet"]},
    "redux": FLUX | {"base": "dev", "modes": ["redux"]},
    "q4": FLUX | {"base": "dev"},
}


def catalog(folder: Path, models: dict[str, Any] = BASE) -> Catalog:
    settings = {"models_dir": folder, "loras_dir": folder / "loras", "data_dir": folder / "data"}
    return Catalog(Config.model_validate(settings | {"models": models}))


def network(folder: Path) -> None:
    """The smallest folder that counts as one network."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"_class_name": "FluxControlNetModel"}')
    save_file({"w": numpy.zeros(4, numpy.float16)}, folder / "diffusion_pytorch_model.safetensors")


def redux(folder: Path) -> None:
    network(folder / "image_encoder")
    index = {
        "_class_name": "FluxPriorReduxPipeline",
        "image_encoder": ["transformers", "SiglipVisionModel"],
        "image_embedder": ["flux", "ReduxImageEncoder"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    network(folder / "image_embedder")


def picture(role: ImageRole, size: int = 64, **control: Any) -> dict[str, Any]:
    file = FileRef(sha256="0" * 64, media_type="image/png", width=size, height=size, size_bytes=100)
    return {"file": file, "role": role} | ({"control": control} if control else {})


def asks(model: str, mode: Mode, *images: dict[str, Any], **more: Any) -> GenerationRequest:
    values = {"model": model, "mode": mode, "prompt": "a cat", "images": images} | more
    return GenerationRequest.model_validate(values)


# Bases


def test_a_model_on_a_base_needs_the_base(tmp_path: Path):
    redux(tmp_path / "redux")
    alone = catalog(tmp_path)
    with pytest.raises(ModelBroken, match="adds to dev, which is not installed"):
        alone.serving("redux")
    install(tmp_path / "dev")
    both = catalog(tmp_path)
    spec = both.serving("redux").spec
    assert (spec.folder, spec.base) == (tmp_path / "redux", tmp_path / "dev")
    both.check(asks("redux", Mode.REDUX, picture(ImageRole.REFERENCE)))


def test_a_broken_base_is_told_and_the_base_alone_is_too(tmp_path: Path):
    redux(tmp_path / "redux")
    install(tmp_path / "dev")
    (tmp_path / "dev" / "transformer" / "config.json").unlink()
    found = catalog(tmp_path)
    for model in ("dev", "redux"):
        with pytest.raises(ModelBroken, match=r"dev/transformer/config\.json is missing"):
            found.serving(model)


def test_a_model_that_is_not_there_at_all_is_told_as_ever(tmp_path: Path):
    install(tmp_path / "dev")
    with pytest.raises(ModelNotInstalled, match="models/redux"):
        catalog(tmp_path).serving("redux")


def test_the_base_lends_sizes_too(tmp_path: Path):
    redux(tmp_path / "redux")
    install(tmp_path / "dev", native_pixels=16384, buckets=[[128, 128]], multiple_of=32)
    spec = catalog(tmp_path).entry("redux").spec
    assert (spec.native_pixels, spec.buckets) == (16384, ((128, 128),))
    assert spec.capabilities.multiple_of == 32


def test_another_base_is_another_revision(tmp_path: Path):
    redux(tmp_path / "redux")
    install(tmp_path / "dev")
    before = catalog(tmp_path).entry("redux").revision
    (tmp_path / "dev" / "transformer" / "config.json").write_text('{"other": 1}')
    assert catalog(tmp_path).entry("redux").revision != before


def test_a_part_of_a_model_is_enough_on_a_base(tmp_path: Path):
    install(tmp_path / "dev")
    install(tmp_path / "part")
    index = json.loads((tmp_path / "part" / "model_index.json").read_text())
    index["vae"] = ["diffusers", "AutoencoderKL"]
    (tmp_path / "part" / "model_index.json").write_text(json.dumps(index))
    network(tmp_path / "dev" / "vae")
    models = {"dev": FLUX, "part": FLUX, "lent": FLUX | {"base": "dev", "folder": "part"}}
    found = catalog(tmp_path, models)
    with pytest.raises(ModelBroken, match="part/vae is missing"):
        found.serving("part")
    assert found.serving("lent").spec.id == "lent"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("flux.gguf", b"GGUF....", None),
        ("flux.gguf", b"<html>", r"q4/flux\.gguf is no GGUF file"),
        ("flux.safetensors", b"<html>", r"q4/flux\.safetensors"),
        ("flux.bin", b"", r"q4/flux\.bin may run code"),
        ("readme.txt", b"", r"must hold one \.gguf or \.safetensors file"),
    ],
)
def test_a_single_file_on_a_base(tmp_path: Path, name: str, content: bytes, told: str | None):
    install(tmp_path / "dev")
    (tmp_path / "q4").mkdir()
    (tmp_path / "q4" / name).write_bytes(content)
    found = catalog(tmp_path)
    if told is None:
        assert found.serving("q4").spec.base == tmp_path / "dev"
    else:
        with pytest.raises(ModelBroken, match=told):
            found.serving("q4")
    assert found.serving("dev").spec.id == "dev"


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ({"a": FLUX | {"base": "nowhere"}}, "the base nowhere is not a model itself"),
        (
            {"a": FLUX, "b": FLUX | {"base": "a"}, "c": FLUX | {"base": "b"}},
            "the base b has a base itself; name a",
        ),
        ({"a": {"family": "fake"}, "b": FLUX | {"base": "a"}}, "of another family"),
        ({"a": FLUX | {"controls": {"smell": "x"}}}, "smell"),
    ],
)
def test_names_that_lead_nowhere_are_told_at_the_start(
    tmp_path: Path, models: dict[str, Any], told: str
):
    with pytest.raises(ConfigError, match=told):
        catalog(tmp_path, models)


@pytest.mark.parametrize("name", ["../secrets", "/etc", "a/../../b", ""])
@pytest.mark.parametrize("setting", ["folder", "vae", "controls"])
def test_nothing_outside_of_the_models_folder_is_read(tmp_path: Path, setting: str, name: str):
    value = {"canny": name} if setting == "controls" else name
    with pytest.raises(ValidationError, match="must be a name below models_dir"):
        catalog(tmp_path, {"dev": FLUX | {setting: value}})


# Another VAE


def test_another_vae_is_taken_and_told_when_it_is_missing(tmp_path: Path):
    install(tmp_path / "dev")
    models = {"dev": FLUX | {"vae": "other"}}
    with pytest.raises(ModelBroken, match="its VAE is missing; put it into models/other"):
        catalog(tmp_path, models).serving("dev")
    network(tmp_path / "other")
    assert catalog(tmp_path, models).serving("dev").spec.vae == tmp_path / "other"
    (tmp_path / "other" / "config.json").unlink()
    with pytest.raises(ModelBroken, match=r"other/config\.json is missing"):
        catalog(tmp_path, models).serving("dev")


# ControlNets


def test_a_model_may_be_its_controlnets_alone(tmp_path: Path):
    install(tmp_path / "dev")
    network(tmp_path / "pose")
    found = catalog(tmp_path)
    spec = found.serving("pose").spec
    assert spec.controls == {ControlType.OPENPOSE: tmp_path / "pose"}
    assert spec.capabilities.control_types == (ControlType.OPENPOSE,)
    found.check(asks("pose", Mode.CONTROLNET, picture(ImageRole.CONTROL, weight=0.5)))


def test_a_controlnet_that_is_missing_is_told_and_the_others_work(tmp_path: Path):
    install(tmp_path / "dev")
    network(tmp_path / "edges")
    network(tmp_path / "lame")
    (tmp_path / "lame" / "config.json").unlink()
    controls = {"canny": "edges", "depth": "nowhere", "openpose": "lame"}
    model = FLUX | {"controls": controls, "modes": ["text2img", "controlnet"]}
    found = catalog(tmp_path, {"dev": model})
    assert found.entry("dev").installed
    found.check(asks("dev", Mode.TEXT2IMG))
    found.check(asks("dev", Mode.CONTROLNET, picture(ImageRole.CONTROL, type="canny")))
    for control, told in (("depth", "put it into models/nowhere"), ("openpose", r"lame/config")):
        with pytest.raises(ControlNotInstalled, match=told):
            found.check(asks("dev", Mode.CONTROLNET, picture(ImageRole.CONTROL, type=control)))
    assert found.entry("dev").spec.controls == {ControlType.CANNY: tmp_path / "edges"}


def test_what_lies_in_a_controlnets_place_must_be_one(tmp_path: Path):
    """It is read only when a request asks for it, so it is the scan that must find it out."""
    install(tmp_path / "dev")
    network(tmp_path / "edges")
    (tmp_path / "edges" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    model = FLUX | {"controls": {"canny": "edges"}, "modes": ["text2img", "controlnet"]}
    found = catalog(tmp_path, {"dev": model})
    told = r"edges/config\.json is that of AutoencoderKL; put a ControlNet there"
    with pytest.raises(ControlNotInstalled, match=told):
        found.check(asks("dev", Mode.CONTROLNET, picture(ImageRole.CONTROL, type="canny")))
    found.check(asks("dev", Mode.TEXT2IMG))


def test_of_a_model_that_is_its_controlnets_one_is_enough(tmp_path: Path):
    install(tmp_path / "dev")
    network(tmp_path / "there")
    controls = {"canny": "missing", "depth": "there"}
    both = FLUX | {"base": "dev", "modes": ["controlnet"], "controls": controls}
    found = catalog(tmp_path, {"dev": FLUX, "both": both})
    found.check(asks("both", Mode.CONTROLNET, picture(ImageRole.CONTROL, type="depth")))
    with pytest.raises(ControlNotInstalled):
        found.check(asks("both", Mode.CONTROLNET, picture(ImageRole.CONTROL, type="canny")))


@pytest.mark.parametrize("how", [{"weight": 0.5}, {"start": 0.1}, {"end": 0.9}])
def test_a_map_that_is_a_part_of_the_input_cannot_be_weakened(tmp_path: Path, how: dict[str, Any]):
    install(tmp_path / "depth")
    model = FLUX | {"modes": ["controlnet"], "control_types": ["depth"]}
    found = catalog(tmp_path, {"depth": model})
    found.check(asks("depth", Mode.CONTROLNET, picture(ImageRole.CONTROL, type="depth")))
    with pytest.raises(UnsupportedControlWeight):
        found.check(asks("depth", Mode.CONTROLNET, picture(ImageRole.CONTROL, **how)))


# What a request means


def test_a_mask_must_be_of_the_pictures_size(tmp_path: Path):
    install(tmp_path / "dev")
    found = catalog(tmp_path)
    init = picture(ImageRole.INIT, 64)
    found.check(asks("dev", Mode.FILL, init, picture(ImageRole.MASK, 64)))
    with pytest.raises(MaskSizeMismatch, match="32x32 pixels and input_image 64x64"):
        found.check(asks("dev", Mode.FILL, init, picture(ImageRole.MASK, 32)))


@pytest.mark.parametrize(
    ("model", "mode", "asked", "strength"),
    [
        ("dev", Mode.IMG2IMG, None, 0.8),
        ("dev", Mode.FILL, None, 1.0),
        ("redux", Mode.REDUX, None, 1.0),
        ("dev", Mode.FILL, 0.5, 0.5),
        ("redux", Mode.REDUX, 0.0, 0.0),
    ],
)
def test_what_strength_means_when_nothing_is_said(
    tmp_path: Path, model: str, mode: Mode, asked: float | None, strength: float
):
    install(tmp_path / "dev")
    redux(tmp_path / "redux")
    complete, _ = catalog(tmp_path).complete(asks(model, mode, strength=asked))
    assert complete.strength == strength


def test_a_stand_in_on_a_base_stands_in(tmp_path: Path):
    """As the shipped configuration has it: the small models add to the small base."""
    install(tmp_path / "small")
    redux(tmp_path / "small-redux")
    models = {
        "dev": FLUX | {"stand_in": "small"},
        "redux": FLUX | {"base": "dev", "modes": ["redux"], "stand_in": "small-redux"},
        "fill": FLUX | {"modes": ["fill"], "stand_in": "small-fill"},
        "small": FLUX,
        "small-redux": FLUX | {"base": "small", "modes": ["redux"]},
        "small-fill": FLUX | {"base": "small", "modes": ["fill"]},
    }
    found = catalog(tmp_path, models)
    assert found.serving("redux").spec.id == "small-redux"
    found.check(asks("redux", Mode.REDUX, picture(ImageRole.REFERENCE)))
    with pytest.raises(ModelNotInstalled, match="models/fill"):
        found.serving("fill")
