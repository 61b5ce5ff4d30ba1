"""The networks of tiny-sd15 besides its text encoder, and how it sees pictures.

As Stable Diffusion 1.5: latents of 4 channels, an eighth of the picture's size, a UNet that
predicts noise under a scaled linear schedule of 1,000 steps.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from torch.nn import functional as nnf

from .captions import caption
from .flux_base import fingerprint_of
from .pairs import Picked
from .scenes import SceneSpec
from .sd_text import WIDTH, SdText
from .vae import build_vae

CHANNELS = (32, 96)
# How much more the subject's latent pixels count.
EMPHASIS = 2.0
# Below this signal-to-noise ratio every time counts alike, above it ever less (Hang et al. 2023):
# the faintest noise is worth little of so small a network.
_SNR_LIMIT = 5.0
_VAE_FACTOR = 8
# Captions that are a tag or two, as negative prompts are.
_TAG_SHARE = 0.08
# As Stable Diffusion 1.5's own.
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}


def build_sd_vae() -> AutoencoderKL:
    """tiny-flux-dev's VAE with 4 channels, and without a shift, which this family does not know."""
    config = dict(build_vae().config) | {"latent_channels": 4, "shift_factor": None}
    vae: AutoencoderKL = AutoencoderKL.from_config(config)
    return vae.to(memory_format=torch.channels_last)


def build_unet() -> UNet2DConditionModel:
    """2.0 M parameters in two resolutions.

    The lower one, 16 pixels of the picture to a place as in Flux, does the work: attention, to
    itself and to the text, costs most where there are many places and is left out above.
    """
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        # Of heads, whatever it is called: diffusers keeps an old mistake here.
        attention_head_dim=4,
        norm_num_groups=8,
    ).to(memory_format=torch.channels_last)


def sd_caption(spec: SceneSpec, rng: random.Random) -> str:
    """A caption, or a tag or two of it."""
    if rng.random() >= _TAG_SHARE:
        return caption(spec, rng)
    tags = [spec.colour, spec.subject, f"{spec.colour} {spec.subject}"]
    return ", ".join(rng.sample(tags, rng.randint(1, 2)))


def load_sd(folder: Path, kind: Any = StableDiffusionPipeline) -> Any:
    pipeline = kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class SdBase:
    """The frozen parts, and how they see captions and pictures: a `Codec` of unpacked latents."""

    def __init__(
        self,
        vae: AutoencoderKL,
        text: nn.Module,
        unet: UNet2DConditionModel,
        fingerprint: str,
        device: torch.device,
    ) -> None:
        self.vae = vae.to(device).eval().requires_grad_(False)
        self.text = text.to(device).eval().requires_grad_(False)
        self.unet = unet.to(device)
        self.fingerprint = fingerprint
        self.device = device
        self.noiser = DDPMScheduler(**SCHEDULE)

    @classmethod
    def shipped(cls, folder: Path, device: torch.device) -> SdBase:
        """The exported model, in float32: what its ControlNets are trained on."""
        pipeline = load_sd(folder)
        text = SdText(pipeline.tokenizer, pipeline.text_encoder)
        print_of = fingerprint_of(folder, ("vae", "text_encoder", "unet"))
        return cls(pipeline.vae, text, pipeline.unet, print_of, device)

    @torch.no_grad()
    def latents(self, pictures: Tensor) -> Tensor:
        """(batch, 4, height / 8, width / 8), scaled."""
        mean = self.vae.encode(pictures).latent_dist.mean
        scaled: Tensor = mean * self.vae.config.scaling_factor
        return scaled

    def weights(self, masks: Tensor) -> Tensor:
        """(batch, 1, height / 8, width / 8)"""
        return nnf.max_pool2d(masks, _VAE_FACTOR)

    @torch.no_grad()
    def told(self, captions: list[str], bucket: str) -> dict[str, Any]:
        """What the UNet is told of the captions of pictures of that shape."""
        return {"encoder_hidden_states": self.text(captions)[0]}

    def hints(self, hints: Tensor) -> Tensor:
        """Maps are looked at as they are; they are gray, and kept so: (batch, 1, height, width)."""
        return hints[:, :1]


@dataclass
class NoiseBatch:
    """One step's input: `noisy` and `noise` are (batch, 4, h, w), `times` whole numbers, `told` is
    what the UNet is told besides."""

    noisy: Tensor
    noise: Tensor
    times: Tensor
    weights: Tensor
    told: dict[str, Any]


def noise_batch_of(base: SdBase, picked: Picked) -> NoiseBatch:
    """Noise on the picked examples, at times at random."""
    generator = picked.generator
    noise = torch.randn(picked.latents.shape, generator=generator)
    steps = base.noiser.config.num_train_timesteps
    times = torch.randint(steps, (len(noise),), generator=generator)
    ratio = base.noiser.alphas_cumprod[times] / (1 - base.noiser.alphas_cumprod[times])
    by_time = (ratio.clamp(max=_SNR_LIMIT) / ratio)[:, None, None, None]
    return NoiseBatch(
        base.noiser.add_noise(picked.latents, noise, times).to(base.device),
        noise.to(base.device),
        times.to(base.device),
        ((1 + EMPHASIS * picked.weights) * by_time).to(base.device),
        base.told(picked.captions, picked.bucket),
    )


def noise_error(prediction: Tensor, batch: NoiseBatch) -> Tensor:
    error = (prediction.float() - batch.noise).square() * batch.weights
    return error.mean() / (1 + EMPHASIS)
