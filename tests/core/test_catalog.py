"""What is offered, what stands in for what, and which requests fit."""

import json
from pathlib import Path
from typing import Any

import hypothesis
import numpy
import pytest
from hypothesis import strategies as st
from safetensors.numpy import save_file

from genserve.config import Config
from genserve.core.catalog import Catalog
from genserve.domain.request import (
    Control,
    ControlType,
    FileRef,
    GenerationRequest,
    ImageRole,
    InputImage,
    LoraRef,
    Mode,
)
from genserve.errors import (
    ConfigError,
    MaskSizeMismatch,
    MissingImage,
    ModelBroken,
    ModelNotInstalled,
    SizeNotMultiple,
    TooManyPixels,
    UnknownLora,
    UnknownModel,
    UnknownScheduler,
    UnsupportedControl,
    UnsupportedMask,
    UnsupportedMode,
    UnsupportedNegativePrompt,
)

PICTURE = FileRef(sha256="0" * 64, media_type="image/png", width=8, height=8, size_bytes=100)

TALL = PICTURE.model_copy(update={"width": 600, "height": 1200})
MODELS: dict[str, dict[str, Any]] = {
    "big": {"family": "flux", "modes": ["text2img", "img2img"], "stand_in": "small"},
    "edges": {"family": "flux", "modes": ["controlnet"], "control_types": ["canny"]},
    "editor": {
        "family": "fake",
        "modes": ["text2img", "edit"],
        "defaults": {"width": 512, "height": 256},
    },
    "follower": {"family": "fake", "modes": ["controlnet", "fill"], "control_types": ["canny"]},
    "small": {
        "family": "flux",
        "modes": ["text2img", "img2img", "controlnet"],
        "schedulers": ["euler", "heun"],
        "upscale": True,
        "defaults": {"steps": 20, "width": 512},
    },
}


def install(folder: Path, **own: Any) -> None:
    """The smallest folder that counts as a model."""
    transformer = folder / "transformer"
    transformer.mkdir(parents=True)
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    (transformer / "config.json").write_text("{}")
    weights = {"weight": numpy.zeros(4, dtype=numpy.float16)}
    save_file(weights, transformer / "diffusion_pytorch_model.safetensors")
    if own:
        (folder / "genserve.json").write_text(json.dumps(own))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    install(tmp_path / "models" / "small", native_pixels=16384, buckets=[[128, 128], [176, 96]])
    return tmp_path


def catalog(folders: Path, models: dict[str, dict[str, Any]] = MODELS) -> Catalog:
    return Catalog(
        Config.model_validate(
            {
                "models_dir": folders / "models",
                "loras_dir": folders / "loras",
                "data_dir": folders / "data",
                "models": models,
            }
        )
    )


DEPTH_MAP = {
    "file": PICTURE,
    "role": ImageRole.CONTROL,
    "control": {"type": ControlType.DEPTH},
}


def asks(model: str = "big", **changes: Any) -> GenerationRequest:
    return GenerationRequest.model_validate({"model": model, "prompt": "a cat"} | changes)


def test_a_stand_in_draws_visibly_until_a_real_model_is_installed(folders: Path):
    before = catalog(folders)
    assert before.entry("big").served_by == "small"
    assert not before.entry("big").installed
    assert before.serving("big").spec.id == "small"
    install(folders / "models" / "edges")
    after = catalog(folders)
    assert after.entry("big").served_by is None
    with pytest.raises(ModelNotInstalled) as refused:
        after.check(asks())
    assert "models/big" in refused.value.detail("en")
    assert after.entry("small").served_by == "small"


def test_a_model_that_is_installed_draws_itself(folders: Path):
    install(folders / "models" / "big")
    assert catalog(folders).entry("big").served_by == "big"


def test_a_broken_folder_is_told_and_nothing_stands_in_for_it(folders: Path):
    install(folders / "models" / "big")
    (folders / "models" / "big" / "transformer" / "model.bin").write_bytes(b"pickle")
    found = catalog(folders)
    assert found.entry("big").problem is not None
    with pytest.raises(ModelBroken, match=r"model\.bin"):
        found.check(asks())
    found.check(asks("small"))


def test_what_the_folder_says_about_itself_is_taken(folders: Path):
    spec = catalog(folders).entry("small").spec
    assert (spec.native_pixels, spec.buckets) == (16384, ((128, 128), (176, 96)))
    assert spec.upscale


def test_defaults_are_the_asked_models_own(folders: Path):
    complete, spec = catalog(folders).complete(asks())
    assert spec.id == "small"
    assert (complete.model, complete.steps, complete.width) == ("big", 50, 1024)
    complete, _ = catalog(folders).complete(asks("small", guidance=0, scheduler="Flow Match Heun"))
    assert (complete.steps, complete.width, complete.height) == (20, 512, 1024)
    assert (complete.guidance, complete.scheduler) == (0, "heun")


def test_an_absent_control_type_is_the_models_own(folders: Path):
    install(folders / "models" / "edges")
    control = InputImage(file=PICTURE, role=ImageRole.CONTROL, control=Control())
    complete, _ = catalog(folders).complete(asks("edges", mode="controlnet", images=(control,)))
    assert complete.images[0].control is not None
    assert complete.images[0].control.type is ControlType.CANNY


@pytest.mark.parametrize(
    ("request_", "error", "told"),
    [
        (asks("none"), UnknownModel, "big, edges, editor, follower, small"),
        (asks(mode="fill"), UnsupportedMode, "it supports: text2img, img2img"),
        (asks("edges", mode="text2img"), UnsupportedMode, "it supports: controlnet"),
        (asks(mode="img2img"), MissingImage, "input_image"),
        (asks(scheduler="ddim"), UnknownScheduler, "euler, heun"),
        (asks(loras=(LoraRef(name="x"),)), UnknownLora, "no LoRA x"),
        (asks(negative_prompt="blurry"), UnsupportedNegativePrompt, "big"),
        (asks(width=1000), SizeNotMultiple, "multiples of 16; 1000x1024"),
        (asks(width=4096, height=4096), TooManyPixels, "4194304"),
        (
            asks("edges", mode="controlnet", images=[DEPTH_MAP]),
            UnsupportedControl,
            "it supports: canny",
        ),
    ],
)
def test_what_does_not_fit_is_told(
    folders: Path, request_: GenerationRequest, error: type[Exception], told: str
):
    install(folders / "models" / "edges")
    install(folders / "models" / "big")
    models = MODELS | {"big": MODELS["big"] | {"schedulers": ["euler", "heun"]}}
    with pytest.raises(error, match=told):
        catalog(folders, models).check(request_)


def given(*roles: ImageRole, file: FileRef = PICTURE) -> tuple[InputImage, ...]:
    return tuple(InputImage(file=file, role=role) for role in roles)


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({}, (256, 512)),
        ({"width": 320}, (320, 640)),
        ({"height": 320}, (160, 320)),
        ({"width": 64, "height": 48}, (64, 48)),
    ],
)
def test_an_edited_picture_keeps_its_shape(
    folders: Path, asked: dict[str, int], size: tuple[int, int]
):
    """As many pixels as the model draws where nobody says, in whole multiples."""
    found = catalog(folders)
    edit = asks("editor", mode="edit", images=given(ImageRole.REFERENCE, file=TALL), **asked)
    found.check(edit)
    complete, _ = found.complete(edit)
    assert (complete.width, complete.height) == size
    drawn, _ = found.complete(asks("editor"))
    assert (drawn.width, drawn.height) == (512, 256)


@hypothesis.given(st.integers(20, 3000), st.integers(20, 3000))
def test_no_edited_picture_is_larger_than_the_models_default_size(width: int, height: int):
    """So that one whose default is its limit refuses no picture for its size."""
    model = {"family": "fake", "modes": ["edit"], "max_pixels": 1024 * 1024}
    file = PICTURE.model_copy(update={"width": width, "height": height})
    found = catalog(Path("nowhere"), {"editor": model})
    edit = asks("editor", mode="edit", images=given(ImageRole.REFERENCE, file=file))
    found.check(edit)
    complete, _ = found.complete(edit)
    drawn = (complete.width or 0, complete.height or 0)
    assert all(side % 16 == 0 for side in drawn)
    if width == height:
        assert drawn == (1024, 1024)


def test_a_mask_may_go_with_a_control_picture_where_the_model_can(folders: Path):
    install(folders / "models" / "edges")
    found = catalog(folders)
    roles = (ImageRole.CONTROL, ImageRole.INIT, ImageRole.MASK)
    asked = asks("follower", mode="controlnet", images=given(*roles))
    found.check(asked)
    complete, _ = found.complete(asked)
    assert complete.strength == 1, "what is filled is redrawn wholly"
    complete, _ = found.complete(asks("follower", mode="controlnet", images=given(*roles[:2])))
    assert complete.strength == 0.8
    with pytest.raises(UnsupportedMask, match="edges cannot fill along a control picture"):
        found.check(asks("edges", mode="controlnet", images=given(*roles)))
    with pytest.raises(MissingImage, match="input_image"):
        found.check(asks("follower", mode="controlnet", images=given(roles[0], roles[2])))
    other = (*given(*roles[:2]), *given(ImageRole.MASK, file=TALL))
    with pytest.raises(MaskSizeMismatch):
        found.check(asks("follower", mode="controlnet", images=other))


def test_a_request_that_fits_passes(folders: Path):
    found = catalog(folders)
    found.check(asks(width=1024, height=1024, scheduler="euler"))
    found.check(
        asks(mode=Mode.IMG2IMG, images=[{"file": PICTURE, "role": ImageRole.INIT}], strength=0.5)
    )


def test_a_configuration_that_names_nonsense_is_refused(folders: Path):
    for broken in (
        {"a": {"family": "flux", "stand_in": "nowhere"}},
        {"a": {"family": "flux", "modes": ["text2video"]}},
        {"a": {"family": "flux", "control_types": ["smell"]}},
    ):
        with pytest.raises(ConfigError):
            catalog(folders, broken)
