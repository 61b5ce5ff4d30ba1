"""Stable Diffusion 1.5 and XL: the recipes draw what diffusers' own pipelines draw."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

from genserve.domain.request import ControlType, GenerationRequest, ImageRole, Mode
from genserve.domain.samplers import CANONICAL, WITHOUT_SIGMAS
from genserve.errors import UnsupportedControl, UnsupportedMode
from genserve.pipelines import sd15, sdxl
from genserve.pipelines.base import BrokenModel, Cancelled, Pipeline, Stage, UnusablePicture
from genserve.pipelines.preview import level_after
from genserve.pipelines.schedulers import diffusion_scheduler
from genserve.pipelines.sd_modes import Plan, plan
from genserve.pipelines.shelf import Shelf
from tests.pipelines import tiny_diffusion as tiny
from tests.pipelines.conftest import Watcher
from tests.pipelines.diffusion_models import (
    SIDE,
    asked,
    colourful,
    control,
    difference,
    draw,
    loaded,
    middle,
)

FAMILIES = ["sd15", "sdxl"]
LIBRARY = {"sd15": "StableDiffusion", "sdxl": "StableDiffusionXL"}
MADE_WITH: dict[str, dict[str, Any]] = {
    "sd15": {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    },
    "sdxl": {"add_watermarker": False},
}
INIT, MASK, CONTROL = ImageRole.INIT, ImageRole.MASK, ImageRole.CONTROL


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models(tiny_models: Path) -> dict[str, Pipeline]:
    return {
        family: loaded(
            tiny_models / family,
            family,
            controls={ControlType.CANNY: tiny_models / f"{family}-canny"},
        )
        for family in FAMILIES
    }


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def model(models: dict[str, Pipeline], family: str) -> Pipeline:
    return models[family]


def parts_of(model: Pipeline) -> Any:
    """The recipe's components, to look into or to break."""
    return model._parts  # type: ignore[attr-defined]


def by_the_library(
    model: Pipeline, family: str, kind: str, scheduler: str = "euler", **given: Any
) -> Image.Image:
    """The same picture by diffusers' own pipeline on the same networks."""
    made_with = dict(MADE_WITH[family])
    names = ["vae", "text_encoder", "tokenizer", "unet"]
    names += ["text_encoder_2", "tokenizer_2"] if family == "sdxl" else []
    components = {name: parts_of(model)[name] for name in names}
    if "Control" in kind:
        made_with["controlnet"] = controlnet_of(model)
    steps = given.get("num_inference_steps", 12)
    whole = "Img2Img" not in kind and "Inpaint" not in kind
    components["scheduler"] = diffusion_scheduler(
        scheduler, parts_of(model).trained, steps=steps, whole=whole
    )
    pipe = getattr(diffusers, f"{LIBRARY[family]}{kind}Pipeline")(**components, **made_with)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(1)
    if "Img2Img" not in kind or "Control" in kind:
        given |= {"width": SIDE, "height": SIDE}
    asked = {"prompt": "a red cat", "negative_prompt": "ugly", "num_inference_steps": 12}
    image: Image.Image = pipe(**(asked | given), guidance_scale=5.0, generator=generator).images[0]
    return image


def controlnet_of(model: Pipeline) -> Any:
    for read in model.lacking(asked(mode="controlnet", images=control(type="canny"))).values():
        read()
    return model.parts()["controlnet"]


def plan_of(model: Pipeline, request: GenerationRequest, pictures: Any) -> Plan:
    kinds = {"sd15": sd15, "sdxl": sdxl}[request.model]._KINDS
    return plan(kinds, parts_of(model), request, pictures, **MADE_WITH[request.model])


HALF: dict[str, Any] = {"strength": 0.5}
STEERED: dict[str, Any] = {
    "controlnet_conditioning_scale": 0.7,
    "control_guidance_start": 0.1,
    "control_guidance_end": 0.8,
}


@pytest.mark.parametrize("scheduler", ["euler", "dpmpp_2m", "heun", "euler_a", "pndm"])
def test_each_mode_is_the_librarys(model: Pipeline, family: str, scheduler: str):
    image, mask = colourful(), middle()
    ours: dict[str, Any] = {"steps": 12, "scheduler": scheduler}
    assert draw(model, **ours).tobytes() == by_the_library(model, family, "", scheduler).tobytes()
    assert (
        draw(model, None, {INIT: image}, mode="img2img", **ours).tobytes()
        == by_the_library(model, family, "Img2Img", scheduler, image=image, **HALF).tobytes()
    )
    assert (
        draw(model, None, {INIT: image, MASK: mask}, mode="fill", **ours).tobytes()
        == by_the_library(
            model, family, "Inpaint", scheduler, image=image, mask_image=mask, **HALF
        ).tobytes()
    )


def test_no_negative_prompt_is_the_librarys(model: Pipeline, family: str):
    """For SDXL that is zeros, not an empty text."""
    drawn = draw(model, steps=12, negative_prompt="")
    expected = by_the_library(model, family, "", negative_prompt=None)
    assert drawn.tobytes() == expected.tobytes()


def test_a_controlnet_is_the_librarys(model: Pipeline, family: str):
    image, mask = colourful(), middle()
    ours: dict[str, Any] = {
        "mode": "controlnet",
        "steps": 12,
        "images": control(type="canny", weight=0.7, start=0.1, end=0.8),
    }
    assert (
        draw(model, None, {CONTROL: image}, **ours).tobytes()
        == by_the_library(model, family, "ControlNet", image=image, **STEERED).tobytes()
    )
    both: dict[str, Any] = {"image": image, "control_image": image, **HALF, **STEERED}
    assert (
        draw(model, None, {CONTROL: image, INIT: image}, **ours).tobytes()
        == by_the_library(model, family, "ControlNetImg2Img", **both).tobytes()
    )
    assert (
        draw(model, None, {CONTROL: image, INIT: image, MASK: mask}, **ours).tobytes()
        == by_the_library(model, family, "ControlNetInpaint", mask_image=mask, **both).tobytes()
    )


def test_a_controlnet_of_no_weight_is_none(model: Pipeline):
    pictures, ours = {CONTROL: colourful()}, {"mode": "controlnet"}
    without = draw(model)
    silent = draw(model, None, pictures, images=control(type="canny", weight=0.0), **ours)
    assert silent.tobytes() == without.tobytes()
    loud = draw(model, None, pictures, images=control(type="canny"), **ours)
    assert difference(loud, without) > 1
    early = draw(model, None, pictures, images=control(type="canny", end=0.25), **ours)
    assert early.tobytes() not in (loud.tobytes(), without.tobytes())


@pytest.mark.parametrize("name", CANONICAL)
def test_each_scheduler_draws_in_few_steps(models: dict[str, Pipeline], name: str):
    for steps in (1, 2, 5):
        hook = Watcher()
        assert draw(models["sd15"], hook, steps=steps, scheduler=name).size == (SIDE, SIDE)
        assert hook.steps[-1] == (steps, steps)
        hook = Watcher()
        half = {"mode": "img2img", "steps": steps, "scheduler": name}
        draw(models["sd15"], hook, {INIT: colourful()}, **half)
        assert hook.steps[-1] == (max(1, steps // 2),) * 2


@pytest.mark.parametrize("name", sorted(set(CANONICAL) - WITHOUT_SIGMAS))
def test_named_levels_change_the_picture(models: dict[str, Pipeline], name: str):
    asked = [None, "karras", "exponential", "beta"]
    drawn = [draw(models["sd15"], steps=3, scheduler=name, sigmas=sigmas) for sigmas in asked]
    assert len({image.tobytes() for image in drawn}) == 4


def test_the_same_seed_draws_the_same_bytes_and_another_does_not(model: Pipeline):
    first = draw(model)
    assert draw(model).tobytes() == first.tobytes()
    assert draw(model, seed=2).tobytes() != first.tobytes()


def test_what_is_asked_for_changes_the_picture(model: Pipeline):
    plain = draw(model)
    for change in (
        {"prompt": "a blue dog"},
        {"negative_prompt": "nice"},
        {"negative_prompt": ""},
        {"guidance": 9.0},
        {"guidance": 1.0},
        {"clip_skip": 3},
        {"prompt": "a (red:1.5) cat"},
        {"prompt": "a red cat, " + "on a boat, " * 20},
    ):
        assert draw(model, **change).tobytes() != plain.tobytes(), change
    for same in ({"prompt": "a (red:1.0) cat"}, {"clip_skip": 1}, {"clip_skip": 0}):
        assert draw(model, **same).tobytes() == plain.tobytes(), same


def test_a_long_prompt_is_not_its_beginning(model: Pipeline):
    long = "a red cat, " * 9
    ends = [draw(model, prompt=long + end, steps=2).tobytes() for end in ("on a boat", "in a tree")]
    assert ends[0] != ends[1]


@pytest.mark.parametrize(
    ("strength", "steps", "made"),
    [(1.0, 4, 4), (0.75, 4, 3), (0.5, 4, 2), (0.3, 4, 1), (0.1, 4, 1), (0.0, 4, 1), (0.3, 1, 1)],
)
def test_strength_is_the_share_of_steps(model: Pipeline, strength: float, steps: int, made: int):
    hook = Watcher()
    asked = {"mode": "img2img", "strength": strength, "steps": steps}
    draw(model, hook, {INIT: colourful()}, **asked)
    assert hook.steps[-1] == (made, made)


def test_the_least_strength_begins_near_the_picture_even_with_one_step(
    model: Pipeline, family: str
):
    """A schedule's only step would begin at noise alone; a finer one begins where it should."""
    noise = []
    for strength in (0.02, 0.3, 1.0):
        request = asked(model=family, mode="img2img", strength=strength, steps=1)
        planned = plan_of(model, request, {INIT: colourful()})
        schedule = planned.given["num_inference_steps"]
        planned.pipe.scheduler.set_timesteps(schedule)
        noise.append(float(planned.pipe.scheduler.sigmas[schedule - planned.steps]))
    assert noise[0] < 0.5 < noise[1] < 3 < noise[2]


@pytest.mark.parametrize("mode", ["text2img", "img2img", "fill", "controlnet"])
@pytest.mark.parametrize("scheduler", ["heun", "pndm"])
def test_a_cancelled_picture_leaves_no_trace(model: Pipeline, mode: str, scheduler: str):
    before = draw(model)
    hook = Watcher(cancel_at=1)
    pictures = {INIT: colourful(), MASK: middle(), CONTROL: colourful()}
    images = control(type="canny") if mode == "controlnet" else ()
    with pytest.raises(Cancelled):
        draw(model, hook, pictures, mode=mode, scheduler=scheduler, images=images)
    assert Stage.DECODE not in hook.stages
    assert draw(model).tobytes() == before.tobytes()
    assert "to" not in vars(parts_of(model)["vae"])


def test_stages_and_steps_are_told(model: Pipeline):
    hook = Watcher()
    draw(model, hook)
    assert hook.stages == [Stage.TEXT, Stage.DENOISE, Stage.DECODE]
    assert hook.steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("scheduler", ["dpmpp_2m", "ddim", "euler", "heun", "lms", "euler_a"])
def test_previews_are_offered_at_each_step_with_less_and_less_noise(
    model: Pipeline, scheduler: str
):
    noise: list[float] = []

    class Looking(Watcher):
        def preview(self, make: Any) -> None:
            assert make().mode == "RGB"
            previewer = make.__self__
            alpha, sigma = level_after(previewer._scheduler, previewer._steps[-1][0])
            noise.append(sigma / alpha)

    for mode, steps in (("text2img", 6), ("img2img", 3)):
        noise.clear()
        asked = {"mode": mode, "steps": 6, "scheduler": scheduler}
        draw(model, Looking(), {INIT: colourful()}, **asked)
        assert len(noise) >= steps
        assert noise == sorted(noise, reverse=True)
        assert noise[-1] < 0.05


@pytest.mark.parametrize("part", ["latents", "pixels"])
def test_numbers_that_are_not_finite_are_never_a_picture(model: Pipeline, part: str):
    parts = parts_of(model)
    last = parts["unet"].conv_out if part == "latents" else parts["vae"].decoder.conv_out
    kept = last.weight.detach().clone()
    with torch.no_grad():
        last.weight[0] = float("nan")
    try:
        with pytest.raises(UnusablePicture, match=f"the {part} are not finite"):
            draw(model, steps=1)
    finally:
        with torch.no_grad():
            last.weight.copy_(kept)
    draw(model, steps=1)


def test_low_memory_tiles_the_vae_and_gives_it_back(model: Pipeline):
    vae = parts_of(model)["vae"]
    tiled = model.low_memory()
    assert tiled is not None
    with tiled:
        assert vae.use_tiling
        draw(model, steps=1)
    assert not vae.use_tiling


def test_its_parts_are_its_networks(model: Pipeline, family: str):
    encoders = {"text_encoder"} | ({"text_encoder_2"} if family == "sdxl" else set())
    controlnet_of(model)
    assert set(model.parts()) == {"unet", "vae", "controlnet"} | encoders
    assert model.size_bytes() > 1_000_000
    assert model.offloaded("model") is None


def test_modes_and_control_types_that_it_lacks_are_refused(model: Pipeline, tiny_models: Path):
    for mode in (Mode.REDUX, Mode.EDIT):
        with pytest.raises(UnsupportedMode):
            draw(model, mode=mode)
    with pytest.raises(UnsupportedControl):
        draw(model, None, {CONTROL: colourful()}, mode="controlnet", images=control(type="depth"))
    with pytest.raises(UnsupportedMode):
        draw(loaded(tiny_models / "sd15", "sd15"), mode="controlnet")


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_unet_that_was_trained_to_fill(family: str, strength: float, tmp_path: Path):
    """It takes latents, mask and the masked picture: nine channels."""
    build = {"sd15": tiny.build_sd15, "sdxl": tiny.build_sdxl}[family]
    filling = loaded(build(tmp_path / "fill", in_channels=9), family)
    image, mask = colourful(), middle()
    asked = {"mode": "fill", "strength": strength, "steps": 12}
    expected = by_the_library(
        filling, family, "Inpaint", image=image, mask_image=mask, strength=strength
    )
    assert draw(filling, None, {INIT: image, MASK: mask}, **asked).tobytes() == expected.tobytes()
    with pytest.raises(UnsupportedMode, match="fill"):
        draw(filling)


def test_sdxls_vae_stays_in_float32_beside_float16_or_bfloat16(tiny_models: Path):
    half = loaded(tiny_models / "sdxl", "sdxl", dtype="bfloat16")
    assert parts_of(half)["unet"].dtype is torch.bfloat16
    assert parts_of(half)["text_encoder_2"].dtype is torch.bfloat16
    draw(half, None, {INIT: colourful()}, mode="img2img", steps=2)
    draw(half, None, {INIT: colourful(), MASK: middle()}, mode="fill", steps=2)
    assert parts_of(half)["vae"].dtype is torch.float32
    small = loaded(tiny_models / "sd15", "sd15", dtype="bfloat16")
    assert parts_of(small)["vae"].dtype is torch.bfloat16
    draw(small, None, {INIT: colourful()}, mode="img2img", steps=2)


def test_networks_are_shared_and_given_back(tiny_models: Path):
    shelf = Shelf()
    one, other = (loaded(tiny_models / "sd15", "sd15", shelf=shelf) for _ in range(2))
    assert one.parts()["unet"] is other.parts()["unet"]
    assert one.size_bytes() == 0
    other.unload()
    assert one.size_bytes() > 1_000_000
    draw(one, steps=1)
    one.unload()
    assert one.size_bytes() == shelf.shared_bytes() == 0


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("unet", "unet is missing"),
        ("tokenizer", "tokenizer is missing"),
        ("scheduler", "scheduler_config.json is missing"),
    ],
)
def test_a_folder_that_lacks_a_component_is_broken(
    tiny_models: Path, tmp_path: Path, spoil: str, words: str
):
    folder = tmp_path / "broken"
    folder.mkdir()
    for part in (tiny_models / "sd15").iterdir():
        if part.name != spoil:
            (folder / part.name).symlink_to(part)
    with pytest.raises(BrokenModel, match=words):
        loaded(folder, "sd15")
