"""The Flux recipe on the shipped tiny model: what it draws is others' business, how is ours."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops, ImageStat

from genserve.domain.request import GenerationRequest, ImageRole
from genserve.errors import UnsupportedMode
from genserve.pipelines.base import BrokenModel, Cancelled, Stage, UnusablePicture
from genserve.pipelines.flux import Flux
from genserve.pipelines.shelf import Shelf
from tests.pipelines.conftest import TINY, Watcher, request, tiny_spec


@pytest.fixture(scope="module")
def flux() -> Iterator[Flux]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # pictures this small gain nothing by more
    pipeline = Flux()
    pipeline.load(tiny_spec(), "cpu", Shelf())
    yield pipeline
    pipeline.unload()
    torch.set_num_threads(threads)


def draw(
    flux: Flux, hook: Watcher | None = None, inputs: Any = None, **changes: Any
) -> Image.Image:
    asked: GenerationRequest = request(**changes)
    image: Image.Image = flux.generate(asked, asked.seed or 0, inputs or {}, hook or Watcher())
    return image


def parts_of(flux: Flux) -> Any:
    """What is in memory, to look into or to break."""
    return flux._parts


def difference(one: Image.Image, other: Image.Image) -> float:
    return sum(ImageStat.Stat(ImageChops.difference(one, other)).mean)


def test_the_same_seed_draws_the_same_bytes_and_another_does_not(flux: Flux):
    first = draw(flux)
    assert draw(flux).tobytes() == first.tobytes()
    assert draw(flux, seed=2).tobytes() != first.tobytes()


def test_prompt_and_cfg_change_the_picture(flux: Flux):
    plain = draw(flux)
    assert draw(flux, prompt="a yellow star on a black background").tobytes() != plain.tobytes()
    assert draw(flux, guidance=7.0).tobytes() != plain.tobytes()


@pytest.mark.parametrize("size", [(128, 128), (160, 96), (96, 128), (64, 32)])
def test_the_size_asked_for_is_drawn(flux: Flux, size: tuple[int, int]):
    assert draw(flux, width=size[0], height=size[1], steps=1).size == size


def test_steps_and_stages_are_told(flux: Flux):
    hook = Watcher()
    draw(flux, hook, steps=4)
    assert hook.steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert hook.stages == [Stage.TEXT, Stage.DENOISE, Stage.DECODE]


def test_heun_tells_steps_and_not_evaluations(flux: Flux):
    hook = Watcher()
    heun = draw(flux, hook, steps=3, scheduler="heun")
    assert hook.steps == [(1, 3), (1, 3), (2, 3), (2, 3), (3, 3)]
    assert heun.tobytes() != draw(flux, steps=3).tobytes()


@pytest.mark.parametrize(
    ("strength", "steps"), [(1.0, 4), (0.75, 3), (0.5, 2), (0.3, 2), (0.2, 1), (0.0, 1)]
)
@pytest.mark.parametrize("scheduler", ["euler", "heun"])
def test_strength_is_the_share_of_steps(flux: Flux, picture, strength, steps, scheduler):
    hook, inputs = Watcher(), {ImageRole.INIT: picture}
    asked = {"mode": "img2img", "strength": strength, "steps": 4, "scheduler": scheduler}
    image = draw(flux, hook, inputs, **asked)
    assert image.size == (64, 64)
    assert hook.steps[-1] == (steps, steps)


def test_less_strength_stays_nearer_to_the_picture(flux: Flux, picture: Image.Image):
    inputs = {ImageRole.INIT: picture}
    little = draw(flux, None, inputs, mode="img2img", steps=4, strength=0.25)
    much = draw(flux, None, inputs, mode="img2img", steps=4, strength=1.0)
    assert difference(little, picture) < difference(much, picture)


@pytest.mark.parametrize("mode", ["text2img", "img2img"])
@pytest.mark.parametrize("scheduler", ["euler", "heun"])
def test_a_cancelled_picture_leaves_no_trace(flux: Flux, picture, mode: str, scheduler: str):
    before = draw(flux)
    hook = Watcher(cancel_at=2)
    with pytest.raises(Cancelled):
        draw(flux, hook, {ImageRole.INIT: picture}, mode=mode, scheduler=scheduler, steps=4)
    assert hook.steps[-1][0] == 2
    assert Stage.DECODE not in hook.stages
    assert draw(flux).tobytes() == before.tobytes()


def test_the_models_own_scheduler_is_put_back(flux: Flux):
    own = parts_of(flux).scheduler
    levels = own.sigmas.clone()
    draw(flux, scheduler="heun")
    assert parts_of(flux).scheduler is own
    assert torch.equal(own.sigmas, levels)


def test_a_prompt_of_any_length_is_drawn(flux: Flux):
    draw(flux, prompt="猫 " * 10_000, steps=1)
    draw(flux, prompt=" ", steps=1)


@pytest.mark.parametrize("part", ["latents", "pixels"])
def test_numbers_that_are_not_finite_are_never_a_picture(flux: Flux, part: str):
    parts = parts_of(flux)
    last_layer = parts.transformer.proj_out if part == "latents" else parts.vae.decoder.conv_out
    kept = last_layer.weight.detach().clone()
    with torch.no_grad():
        last_layer.weight[0] = float("nan")
    try:
        with pytest.raises(UnusablePicture, match=f"the {part} are not finite"):
            draw(flux, steps=1)
    finally:
        with torch.no_grad():
            last_layer.weight.copy_(kept)
    draw(flux, steps=1)


def test_low_memory_tiles_the_vae_and_gives_it_back(flux: Flux):
    vae = parts_of(flux).vae
    with flux.low_memory():
        assert vae.use_tiling
        assert vae.use_slicing
        draw(flux, steps=1)
    assert not vae.use_tiling
    assert not vae.use_slicing


def test_modes_of_other_recipes_are_refused(flux: Flux):
    with pytest.raises(UnsupportedMode):
        draw(flux, mode="edit")


def test_what_it_takes_is_what_its_weights_are(flux: Flux):
    on_disk = sum(file.stat().st_size for file in TINY.rglob("*.safetensors"))
    assert on_disk < flux.size_bytes() < 2.2 * on_disk  # 16 bits on disk, 32 in memory


def test_a_folder_without_a_model_is_broken(tmp_path: Path):
    with pytest.raises(BrokenModel):
        Flux().load(tiny_spec(folder=tmp_path), "cpu", Shelf())


def test_a_pickle_is_never_loaded(tmp_path: Path):
    folder = tmp_path / "pickled"
    shutil.copytree(TINY, folder)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"harmless": torch.zeros(1)}, folder / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match=r"safetensors|diffusion_pytorch_model"):
        Flux().load(tiny_spec(folder=folder), "cpu", Shelf())


def test_sixteen_bits_can_be_asked_for():
    half = Flux()
    half.load(tiny_spec(dtype="bfloat16"), "cpu", Shelf())
    assert parts_of(half).transformer.dtype is torch.bfloat16
    assert draw(half, steps=1).size == (64, 64)
