"""Previews look like what becomes of them: for real latents of real VAEs, at each step."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image

from genserve.domain.model import ModelSpec
from genserve.pipelines import preview
from genserve.pipelines.base import BrokenModel
from genserve.pipelines.flux import Flux
from genserve.pipelines.preview import Previewer
from genserve.pipelines.shelf import Shelf
from tests.pipelines.conftest import TINY, Watcher, request, tiny_spec


class Viewer(Watcher):
    """A hook that looks at every preview."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Image.Image] = []

    def preview(self, make: Callable[[], Image.Image]) -> None:
        self.seen.append(make())


@pytest.fixture(scope="module")
def flux() -> Flux:
    flux = Flux()
    flux.load(tiny_spec(), "cpu", Shelf())
    return flux


@pytest.fixture(scope="module")
def vae() -> Any:
    return AutoencoderKL.from_pretrained(TINY / "vae", use_safetensors=True, dtype=torch.float32)


def likeness(one: Image.Image, other: Image.Image) -> float:
    """Correlation of all levels, at the smaller one's size."""
    other = other.resize(one.size, Image.Resampling.BOX)
    here, there = (numpy.asarray(image.convert("RGB"), float).ravel() for image in (one, other))
    return float(numpy.corrcoef(here, there)[0, 1])


@pytest.mark.parametrize("scheduler", ["euler", "heun"])
@pytest.mark.parametrize("prompt", ["a green tree in the garden", "a yellow star in the night sky"])
def test_near_the_end_a_preview_is_the_picture(flux: Flux, prompt: str, scheduler: str) -> None:
    asked = request(prompt=prompt, width=128, height=128, steps=20, scheduler=scheduler)
    viewer = Viewer()
    picture = flux.generate(asked, 1, {}, viewer)
    assert viewer.seen[0].size == (32, 32)
    alike = [likeness(seen, picture) for seen in viewer.seen]
    assert min(alike[-len(alike) // 4 :]) > 0.8
    assert alike[len(alike) // 2] > 0.7, "half-way the noise is taken out of it"


def test_looking_changes_nothing(flux: Flux) -> None:
    asked = request(width=64, height=64, steps=4)
    assert flux.generate(asked, 1, {}, Viewer()).tobytes() == (
        flux.generate(asked, 1, {}, Watcher()).tobytes()
    )


def test_what_is_shown_is_where_the_latents_are_heading(vae: Any) -> None:
    """Half noise, on a straight path: without taking the noise out nothing would be seen."""
    clean = vae.encode(preview._pixels(preview._leaves(random.Random(99)))).latent_dist.mode()
    clean = clean.detach()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(10)
    viewer = Viewer()
    previewer = Previewer(vae, lambda latents: latents)
    for index in range(5):
        sigma = float(scheduler.sigmas[index + 1])
        previewer.saw(viewer, scheduler, index, (1 - sigma) * clean + sigma * noise)
    whole = preview.projection_of(vae).picture(clean)
    assert likeness(viewer.seen[0], whole) < 0.5
    assert likeness(viewer.seen[-1], whole) > 0.99


# numpy's complaint about how diffusers turns torch's tensors into arrays
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(),
        EulerDiscreteScheduler(),
        DDIMScheduler(clip_sample=False),
        DPMSolverMultistepScheduler(),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_every_kind_of_scheduler_tells_how_noisy_it_still_is(scheduler: Any) -> None:
    """A network that knows the noise: what the levels say must fit what the scheduler does."""
    scheduler.set_timesteps(8)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    latents = noise
    if isinstance(scheduler, EulerDiscreteScheduler):
        latents = clean + scheduler.sigmas[0] * noise
    elif not flow:
        signal = scheduler.alphas_cumprod[int(scheduler.timesteps[0])]
        latents = signal**0.5 * clean + (1 - signal) ** 0.5 * noise
    for index, timestep in enumerate(scheduler.timesteps):
        latents = scheduler.step(noise - clean if flow else noise, timestep, latents)[0]
        alpha, level = preview.level_after(scheduler, index)
        expected = (1 - level if flow else alpha) * clean + level * noise
        if level > 0:  # what DDIM's last step aims at is a setting of its own
            assert torch.allclose(latents, expected, atol=0.02), index


class TestProjection:
    def test_it_is_fitted_once_for_each_vae(self, vae: Any) -> None:
        assert preview.projection_of(vae) is preview.projection_of(vae)
        assert preview.projection_of(copy.deepcopy(vae)) is not preview.projection_of(vae)

    def test_colours_come_out_as_they_are(self, vae: Any) -> None:
        for colour in ("red", "lime", "blue", "yellow", "white", "black"):
            pixels = preview._pixels(Image.new("RGB", (64, 64), colour))
            latents = vae.encode(pixels).latent_dist.mode().detach()
            found = preview.projection_of(vae).picture(latents).resize((1, 1), Image.Resampling.BOX)
            wanted = Image.new("RGB", (1, 1), colour)
            difference = numpy.subtract(numpy.asarray(found, float), numpy.asarray(wanted, float))
            assert abs(difference).max() < 90, colour

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_the_digits_do(self, vae: Any, dtype: torch.dtype) -> None:
        half = copy.deepcopy(vae).to(dtype)
        pixels = preview._pixels(preview._leaves(random.Random(99)))
        latents = vae.encode(pixels).latent_dist.mode().detach()
        whole = preview.projection_of(vae).picture(latents)
        assert likeness(preview.projection_of(half).picture(latents), whole) > 0.99
        assert next(half.parameters()).dtype is dtype

    def test_four_channels_too(self) -> None:
        """As Stable Diffusion's; with random weights it is about shapes, not looks."""
        torch.manual_seed(0)
        small = AutoencoderKL(
            block_out_channels=(8, 8),
            norm_num_groups=4,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        )
        shown = preview.projection_of(small).picture(torch.randn(1, 4, 10, 20))
        assert (shown.mode, shown.size) == ("RGB", (40, 20))


class TestTinyDecoder:
    """A model may name an AutoencoderTiny beside it."""

    def folder(self, folder: Path) -> Path:
        torch.manual_seed(0)
        tiny = AutoencoderTiny(
            latent_channels=16,
            encoder_block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
        )
        tiny.save_pretrained(folder / "taef1")
        return folder

    def spec(self, folder: Path, name: str) -> ModelSpec:
        return ModelSpec(id="m", family="flux", folder=folder / "m", options={"preview": name})

    def read(self, network: Any, folder: Path) -> Any:
        if not folder.is_dir():
            raise BrokenModel(f"{folder.name} is missing")
        return network.from_pretrained(folder, use_safetensors=True)

    def test_it_takes_the_projections_place(self, vae: Any, tmp_path: Path) -> None:
        own = copy.deepcopy(vae)
        preview.use_decoder(own, self.spec(self.folder(tmp_path), "taef1"), self.read)
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(2)
        viewer = Viewer()
        latents = torch.randn(1, 16, 40, 20, generator=torch.Generator().manual_seed(0))
        Previewer(own, lambda given: given).saw(viewer, scheduler, 0, latents)
        assert viewer.seen[0].size == (128, 256), "decoded whole, then made small"

    def test_one_that_is_missing_is_said(self, vae: Any, tmp_path: Path) -> None:
        with pytest.raises(BrokenModel, match="taef1 is missing"):
            preview.use_decoder(vae, self.spec(tmp_path, "taef1"), self.read)
        with pytest.raises(BrokenModel, match="name of a folder"):
            preview.use_decoder(vae, self.spec(tmp_path, "../taef1"), self.read)


def test_weights_that_come_and_go_are_left_alone(vae: Any) -> None:
    """Between two steps an offloaded VAE must not be called: it would push the network out."""
    own = copy.deepcopy(vae)
    own.decoder._hf_hook = object()
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(2)
    viewer = Viewer()
    previewer = Previewer(own, lambda latents: latents)
    previewer.saw(viewer, scheduler, 0, torch.zeros(1, 16, 4, 4))
    assert viewer.seen == []
    del own.decoder._hf_hook
    preview.projection_of(own)
    own.decoder._hf_hook = object()
    previewer.saw(viewer, scheduler, 1, torch.zeros(1, 16, 4, 4))
    assert len(viewer.seen) == 1, "fitted before its weights began to wander"
