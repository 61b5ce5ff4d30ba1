"""Preprocessors and upscalers in the catalogue: which serves, at what size, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from genserve.config import Config
from genserve.core.catalog import Catalog
from genserve.core.policy import cost_s
from genserve.domain.request import (
    Control,
    ControlType,
    FileRef,
    GenerationRequest,
    ImageRole,
    InputImage,
    Mode,
)
from genserve.errors import (
    MissingImage,
    ModelBroken,
    ModelNotInstalled,
    PreprocessorMissing,
    TooManyPixels,
    UnsupportedControl,
)

MAP = {"modes": ["preprocess"], "multiple_of": 1, "max_pixels": 1_000_000}
MODELS: dict[str, Any] = {
    "flux1-dev": {"family": "flux", "stand_in": "drawer"},
    "drawer": {"family": "fake", "modes": ["text2img"]},
    "canny-net": {"family": "fake", "modes": ["controlnet"], "control_types": ["canny"]},
    "depth-net": {"family": "fake", "modes": ["controlnet"], "control_types": ["depth"]},
    "canny": {"family": "canny", "control_types": ["canny"], **MAP},
    "depth-small": {"family": "depth", "control_types": ["depth"], **MAP},
    "depth-large": {"family": "depth", "control_types": ["depth"], **MAP},
    "lanczos": {"family": "lanczos", "modes": ["upscale"], "multiple_of": 1, "max_pixels": 10_000},
    "four": {
        "family": "lanczos",
        "modes": ["upscale"],
        "multiple_of": 1,
        "max_pixels": 99_999,
        "options": {"scale": 4},
    },
}


def catalog(folder: Path, **models: Any) -> Catalog:
    folders = {"models_dir": folder / "models", "loras_dir": folder / "loras"}
    return Catalog(Config.model_validate({**folders, "models": MODELS | models}))


def install(folder: Path, name: str) -> Path:
    place = folder / "models" / name
    place.mkdir(parents=True)
    for config in ("config.json", "preprocessor_config.json"):
        (place / config).write_text(json.dumps({"model_type": "depth_anything"}))
    save_file({"w": numpy.zeros(4, numpy.float32)}, place / "model.safetensors")
    return place


def asks(model: str, mode: Mode, **fields: Any) -> GenerationRequest:
    """With a picture of 60 x 40 pixels in the mode's role, unless others are named."""
    role = {Mode.UPSCALE: ImageRole.REFERENCE}.get(mode, ImageRole.CONTROL)
    file = FileRef(sha256="0" * 64, media_type="image/png", width=60, height=40, size_bytes=9)
    control = fields.pop("control", Control(preprocess=mode is Mode.PREPROCESS))
    image = InputImage(file=file, role=role, control=control if role is ImageRole.CONTROL else None)
    return GenerationRequest.model_validate(
        {"model": model, "mode": mode, "prompt": "", "images": (image,), **fields}
    )


class TestSizes:
    @pytest.mark.parametrize(
        ("model", "mode", "given", "size"),
        [
            ("canny", Mode.PREPROCESS, {}, (60, 40)),
            ("canny", Mode.PREPROCESS, {"width": 30}, (30, 20)),
            ("lanczos", Mode.UPSCALE, {}, (120, 80)),
            ("lanczos", Mode.UPSCALE, {"height": 100}, (150, 100)),
            ("lanczos", Mode.UPSCALE, {"width": 99, "height": 11}, (99, 11)),
            ("four", Mode.UPSCALE, {}, (240, 160)),
        ],
    )
    def test_they_follow_the_picture(
        self,
        tmp_path: Path,
        model: str,
        mode: Mode,
        given: dict[str, int],
        size: tuple[int, int],
    ) -> None:
        complete, _ = catalog(tmp_path).complete(asks(model, mode, **given))
        assert (complete.width, complete.height) == size

    def test_the_limit_counts_the_result(self, tmp_path: Path) -> None:
        tools = catalog(tmp_path)
        tools.check(asks("lanczos", Mode.UPSCALE, width=100, height=100))
        with pytest.raises(TooManyPixels, match="10000"):
            tools.check(asks("lanczos", Mode.UPSCALE, width=101, height=100))

    def test_a_tool_costs_one_step(self, tmp_path: Path) -> None:
        """Otherwise a map would count against its owner like a picture of fifty steps."""
        tools = catalog(tmp_path)
        tool, _ = tools.complete(asks("canny", Mode.PREPROCESS, width=1024, height=1024))
        drawing, _ = tools.complete(
            GenerationRequest(model="drawer", prompt="x", width=1024, height=1024)
        )
        assert cost_s(drawing, 0.1) == pytest.approx(50 * cost_s(tool, 0.1))

    def test_a_picture_is_needed(self, tmp_path: Path) -> None:
        request = GenerationRequest(model="lanczos", mode=Mode.UPSCALE, prompt="")
        with pytest.raises(MissingImage, match="input_image"):
            catalog(tmp_path).check(request)


class TestWhichPreprocessor:
    def wanted(self, model: str, **control: Any) -> GenerationRequest:
        return asks(model, Mode.CONTROLNET, control=Control(preprocess=True, **control))

    def test_a_finished_map_needs_none(self, tmp_path: Path) -> None:
        request = asks("depth-net", Mode.CONTROLNET, control=Control())
        tools = catalog(tmp_path)
        tools.check(request)
        assert tools.preprocessor(request) is None

    def test_the_control_type_decides(self, tmp_path: Path) -> None:
        install(tmp_path, "depth-large")
        tools = catalog(tmp_path)
        for model, tool in (("canny-net", "canny"), ("depth-net", "depth-large")):
            found = tools.preprocessor(self.wanted(model))
            assert found is not None
            assert found.id == tool

    def test_the_first_that_is_missing_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(PreprocessorMissing, match="models/depth-small"):
            catalog(tmp_path).check(self.wanted("depth-net"))

    def test_a_broken_one_is_said(self, tmp_path: Path) -> None:
        (install(tmp_path, "depth-large") / "config.json").unlink()
        with pytest.raises(ModelBroken, match=r"depth-large/config\.json is missing"):
            catalog(tmp_path).check(self.wanted("depth-net"))

    def test_without_any_the_others_are_named(self, tmp_path: Path) -> None:
        pose_net = {"family": "fake", "modes": ["controlnet"], "control_types": ["openpose"]}
        tools = catalog(tmp_path, **{"pose-net": pose_net})
        with pytest.raises(UnsupportedControl, match="supports: canny, depth"):
            tools.check(self.wanted("pose-net", type=ControlType.OPENPOSE))

    def test_used_alone_it_says_where_its_weights_go(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotInstalled, match="models/depth-small"):
            catalog(tmp_path).check(asks("depth-small", Mode.PREPROCESS))


def test_tools_do_not_count_as_real_models(tmp_path: Path) -> None:
    """The small model goes on standing in for others beside them."""
    install(tmp_path, "depth-small")
    assert catalog(tmp_path).entry("flux1-dev").served_by == "drawer"
