"""Stable Diffusion 3: the recipe draws what diffusers' own pipelines draw, with what encoders
there are."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3Pipeline,
)
from PIL import Image

from genserve.domain.request import ImageRole, Mode
from genserve.errors import SideTooLong, UnsupportedMode
from genserve.pipelines import sd_decode
from genserve.pipelines.base import Cancelled, Pipeline, Stage
from genserve.pipelines.schedulers import flow_scheduler
from tests.pipelines.conftest import Watcher
from tests.pipelines.diffusion_models import SIDE, colourful, draw, loaded, middle

INIT, MASK = ImageRole.INIT, ImageRole.MASK
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tiny_models: Path) -> Pipeline:
    return loaded(tiny_models / "sd3", "sd3")


def without(tiny_models: Path, folder: Path, *encoders: str) -> Path:
    """The model without some of its text encoders, as model pages offer it."""
    shutil.copytree(tiny_models / "sd3", folder)
    index = json.loads((folder / "model_index.json").read_text())
    for encoder in encoders:
        for name in (encoder, encoder.replace("text_encoder", "tokenizer")):
            shutil.rmtree(folder / name)
            index[name] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def by_the_library(model: Any, kind: Any, scheduler: str, **given: Any) -> Image.Image:
    """The same picture by diffusers' own pipeline on the same networks.

    Decoded by ours: diffusers 0.42.1 leaves out the VAE's shift where it fills.
    """
    names = [*ENCODERS, "tokenizer", "tokenizer_2", "tokenizer_3", "transformer", "vae"]
    components = {name: model._parts[name] for name in names}
    pipe = kind(**components, scheduler=flow_scheduler(scheduler, model._scheduler))
    pipe.set_progress_bar_config(disable=True)
    asked = {
        "prompt": "a red cat",
        "negative_prompt": "ugly",
        "width": SIDE,
        "height": SIDE,
        "num_inference_steps": 10,
        "guidance_scale": 5.0,
        "generator": torch.Generator("cpu").manual_seed(1),
    }
    with torch.no_grad():
        return sd_decode.decode(pipe, pipe(**(asked | given), output_type="latent").images)


@pytest.mark.parametrize("scheduler", ["euler", "heun"])
@pytest.mark.parametrize("strength", [1.0, 0.55, 0.1])
def test_each_mode_is_the_librarys(model: Pipeline, scheduler: str, strength: float):
    image, mask = colourful(), middle()
    ours = {"steps": 10, "scheduler": scheduler, "strength": strength}
    redrawn = draw(model, None, {INIT: image}, mode="img2img", **ours)
    expected = by_the_library(
        model, StableDiffusion3Img2ImgPipeline, scheduler, image=image, strength=strength
    )
    assert redrawn.tobytes() == expected.tobytes()
    filled = draw(model, None, {INIT: image, MASK: mask}, mode="fill", **ours)
    pictures = {"image": image, "mask_image": mask, "strength": strength}
    expected = by_the_library(model, StableDiffusion3InpaintPipeline, scheduler, **pictures)
    assert filled.tobytes() == expected.tobytes()


@pytest.mark.parametrize("scheduler", ["euler", "heun"])
def test_text_to_image_is_the_librarys(model: Pipeline, scheduler: str):
    drawn = draw(model, steps=10, scheduler=scheduler)
    expected = by_the_library(model, StableDiffusion3Pipeline, scheduler)
    assert drawn.tobytes() == expected.tobytes()


def test_without_t5_it_is_the_librarys(tiny_models: Path, tmp_path: Path):
    model = loaded(without(tiny_models, tmp_path / "m", "text_encoder_3"), "sd3")
    drawn = draw(model, steps=10)
    expected = by_the_library(model, StableDiffusion3Pipeline, "euler")
    assert drawn.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "missing",
    [
        ("text_encoder",),
        ("text_encoder_2",),
        ("text_encoder", "text_encoder_2"),
        ("text_encoder", "text_encoder_3"),
        ("text_encoder_2", "text_encoder_3"),
    ],
)
def test_any_text_encoder_may_be_missing(tiny_models: Path, tmp_path: Path, missing: Any):
    model = loaded(without(tiny_models, tmp_path / "m", *missing), "sd3")
    assert not set(missing) & set(model.parts())
    one, other = draw(model, prompt="a red cat", steps=2), draw(model, prompt="a dog", steps=2)
    assert one.tobytes() != other.tobytes()


def test_without_any_it_still_draws(tiny_models: Path, tmp_path: Path):
    model = loaded(without(tiny_models, tmp_path / "m", *ENCODERS), "sd3")
    assert draw(model, steps=2).size == (SIDE, SIDE)


def test_what_is_asked_for_changes_the_picture(model: Pipeline):
    plain = draw(model, steps=2)
    for change in (
        {"prompt": "a (red:1.5) cat"},
        {"prompt": "a (red:0.5) cat"},
        {"prompt": "a red cat, " * 30},
        {"prompt": "a red cat, " * 30 + "on a boat"},
        {"negative_prompt": ""},
        {"clip_skip": 3},
        {"guidance": 1.0},
        {"seed": 3},
    ):
        assert draw(model, steps=2, **change).tobytes() != plain.tobytes(), change
    assert draw(model, steps=2, prompt="a (red:1.0) cat").tobytes() == plain.tobytes()


@pytest.mark.parametrize("scheduler", ["euler", "heun"])
def test_named_levels_change_the_picture(model: Pipeline, scheduler: str):
    asked = [None, "karras", "exponential", "beta"]
    drawn = [draw(model, scheduler=scheduler, sigmas=sigmas) for sigmas in asked]
    assert len({image.tobytes() for image in drawn}) == 4


def test_a_long_prompt_is_not_its_beginning(model: Pipeline):
    long = "a red cat, " * 30
    ends = [draw(model, prompt=long + end, steps=2).tobytes() for end in ("on a boat", "in a tree")]
    assert ends[0] != ends[1]


@pytest.mark.parametrize(
    ("strength", "steps", "made"), [(1.0, 4, 4), (0.5, 4, 2), (0.3, 4, 2), (0.0, 4, 1), (0.4, 1, 1)]
)
@pytest.mark.parametrize("scheduler", ["euler", "heun"])
def test_strength_is_the_share_of_steps(
    model: Pipeline, strength: float, steps: int, made: int, scheduler: str
):
    hook = Watcher()
    asked = {"mode": "img2img", "strength": strength, "steps": steps, "scheduler": scheduler}
    draw(model, hook, {INIT: colourful()}, **asked)
    assert hook.steps[-1] == (made, made)


@pytest.mark.parametrize("mode", ["text2img", "img2img", "fill"])
def test_a_cancelled_picture_leaves_no_trace(model: Pipeline, mode: str):
    before = draw(model)
    hook = Watcher(cancel_at=1)
    with pytest.raises(Cancelled):
        draw(model, hook, {INIT: colourful(), MASK: middle()}, mode=mode)
    assert Stage.DECODE not in hook.stages
    assert draw(model).tobytes() == before.tobytes()


@pytest.mark.parametrize("mode", ["text2img", "img2img", "fill"])
def test_a_side_of_more_patches_than_it_knows_is_refused(model: Pipeline, mode: str):
    """96 places of 2 latent pixels of 2 each: few pixels in all do not help."""
    pictures = {INIT: colourful(), MASK: middle()}
    for size in ({"width": 400, "height": 16}, {"width": 16, "height": 400}):
        with pytest.raises(SideTooLong, match="at most 384 pixels on a side") as refused:
            draw(model, None, pictures, mode=mode, **size)
        assert refused.value.status == 422
    assert draw(model, width=384, height=16, steps=1).size == (384, 16)


def test_modes_that_it_lacks_are_refused(model: Pipeline):
    for mode in (Mode.CONTROLNET, Mode.REDUX, Mode.EDIT):
        with pytest.raises(UnsupportedMode, match="fill"):
            draw(model, mode=mode)
