"""The VAE: pictures (3, H, W) in -1..1 to latents (16, H/8, W/8) and back, 0.64 M parameters.

Trained on drawings made as it goes: first on 64 x 64 crops around the subject, then on whole
pictures in every aspect ratio, because its norms average over the picture.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as nnf

from .checkpoint import StageJob, run_stage, step_seed
from .scenes import BUCKETS, Drawing, draw, sample_spec

CROP = 64
CROP_BATCH = 16
WHOLE_BATCH = 6
# The steps on whole pictures come last, at the low end of the learning rate.
WHOLE_SHARE = 0.16
# 2e-3 diverged in the first experiment, 7e-4 did not.
LEARNING_RATE = 7e-4
# Noise on the latents, relative to their own spread of about 1: the decoder learns to forgive
# what the flow gets slightly wrong.
LATENT_NOISE = 0.2
# The posterior's own spread is held at 0.05, so that sampling it (as image-to-image pipelines do)
# hardly differs from its mean.
POSTERIOR_LOGVAR = -6.0
# How the latents' channels are evened out after training, see `even_out_channels`. With the first
# 1,000 steps of the flow, the share of recognised subjects was 20 % at power 0 and 26 % at 0.5.
EVENING_POWER = 0.5
EVENING_FLOOR = 0.0
# The decoder's own stage at the end: less noise than before, since it now wants detail.
DECODER_RATE = 5e-4
DECODER_NOISE = 0.08
DECODER_WHOLE_SHARE = 0.3


@dataclass(frozen=True)
class LatentScale:
    shift: float
    scale: float


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 48, 48),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=128,
        scaling_factor=1.0,
        shift_factor=0.0,
        force_upcast=False,
    ).to(memory_format=torch.channels_last)


def to_tensor(drawings: list[Drawing]) -> tuple[Tensor, Tensor]:
    """Pictures (batch, 3, H, W) in -1..1 and masks (batch, 1, H, W) in 0..1."""
    pixels = torch.from_numpy(np.stack([drawing.pixels for drawing in drawings]))
    masks = torch.from_numpy(np.stack([drawing.mask for drawing in drawings]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, masks[:, None].float() / 255


def _crop(drawing: Drawing, rng: random.Random) -> Drawing:
    """A crop that holds part of the subject: its middle is a random point of the mask."""
    rows, columns = np.nonzero(drawing.mask)
    pick = rng.randrange(len(rows))
    height, width = drawing.mask.shape
    top = min(max(int(rows[pick]) - CROP // 2, 0), height - CROP)
    left = min(max(int(columns[pick]) - CROP // 2, 0), width - CROP)
    window = (slice(top, top + CROP), slice(left, left + CROP))
    return Drawing(drawing.pixels[window], drawing.mask[window], {})


def training_batch(seed: int, step: int, whole: bool, stage: str = "vae") -> tuple[Tensor, Tensor]:
    rng = random.Random(step_seed(seed, stage, step))
    bucket = rng.choice(list(BUCKETS)) if whole else "1:1"
    count = WHOLE_BATCH if whole else CROP_BATCH
    drawings = [draw(sample_spec(rng, bucket)) for _ in range(count)]
    return to_tensor(drawings if whole else [_crop(drawing, rng) for drawing in drawings])


def vae_loss(
    vae: AutoencoderKL, pictures: Tensor, masks: Tensor, generator: torch.Generator
) -> Tensor:
    """The decoder's error on noised latents, and what keeps the latents near unit spread."""
    posterior = vae.encode(pictures).latent_dist
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    amount = torch.rand(len(mean), 1, 1, 1, generator=generator) * LATENT_NOISE
    noise = torch.randn(mean.shape, generator=generator)
    latents = mean + (amount * noise).to(mean.device)
    spread = (mean.square().mean() - 1).square() + mean.mean().square()
    posterior_term = (logvar - POSTERIOR_LOGVAR).square().mean()
    fidelity = picture_error(vae.decode(latents).sample.float(), pictures, masks)
    loss: Tensor = fidelity + 0.1 * spread + 1e-3 * posterior_term
    return loss


def picture_error(decoded: Tensor, pictures: Tensor, masks: Tensor) -> Tensor:
    """Absolute, squared and edge error, in which the subject's pixels count three times."""
    error = (decoded - pictures) * (1 + 2 * nnf.max_pool2d(masks, 5, stride=1, padding=2))
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + error.square().mean() + edges


def train_vae(
    folder: Path,
    seed: int,
    steps: int,
    device: torch.device,
    build: Callable[[], AutoencoderKL] = build_vae,
) -> AutoencoderKL:
    torch.manual_seed(step_seed(seed, "vae"))
    vae = build().to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    whole_from = round(steps * (1 - WHOLE_SHARE))

    def loss_at(step: int) -> Tensor:
        pictures, masks = training_batch(seed, step, whole=step >= whole_from)
        pictures = pictures.to(device, memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed(step_seed(seed, "vae-noise", step))
        with torch.autocast(device.type, torch.bfloat16):
            return vae_loss(vae, pictures, masks.to(device), generator)

    run_stage(StageJob("vae", folder, vae, (optimizer,), loss_at, steps, ema_decay=0.995))
    even_out_channels(vae, seed, device)
    scale = measure_scale(vae, seed, device)
    vae.register_to_config(scaling_factor=scale.scale, shift_factor=scale.shift)
    return vae


def train_decoder(
    folder: Path, vae: AutoencoderKL, seed: int, steps: int, device: torch.device
) -> None:
    """Sharpens the decoder alone: the encoder, and so the latents that the flow knows, stay."""
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), lr=DECODER_RATE, weight_decay=0.0)
    whole_from = round(steps * (1 - DECODER_WHOLE_SHARE))

    def loss_at(step: int) -> Tensor:
        pictures, masks = training_batch(seed, step, step >= whole_from, "decoder")
        pictures = pictures.to(device, memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed(step_seed(seed, "decoder-noise", step))
        with torch.autocast(device.type, torch.bfloat16):
            latents = vae.encode(pictures).latent_dist.mean.float()
            noise = DECODER_NOISE * torch.randn(latents.shape, generator=generator)
            decoded = vae.decode(latents + noise.to(device)).sample.float()
            return picture_error(decoded, pictures, masks.to(device))

    run_stage(
        StageJob("decoder", folder, vae.decoder, (optimizer,), loss_at, steps, ema_decay=0.995)
    )


@torch.no_grad()
def even_out_channels(vae: AutoencoderKL, seed: int, device: torch.device) -> None:
    """Turns the latent space so that shapes weigh more against plain colour, and colour less.

    As trained, the two directions of the 16 channels that hold a colour have 80 times the variance
    of the faintest: the flow, whose noise is the same in all, learns colours at once and shapes
    very late. Each direction of the covariance is divided by (variance + floor)^(power / 2), a
    linear map that is folded into the encoder's last and the decoder's first convolution, so that
    pictures still come out as they went in.
    """
    latents = _measured_latents(vae, seed, device).transpose(0, 1).flatten(1)
    variances, directions = torch.linalg.eigh(torch.cov(latents))
    gains = (variances + EVENING_FLOOR) ** (-EVENING_POWER / 2)
    spread = (gains.square() * variances).mean().sqrt()
    forth = directions @ torch.diag(gains / spread) @ directions.T
    back = torch.linalg.inv(forth)
    channels = len(forth)
    out, into = vae.encoder.conv_out, vae.decoder.conv_in
    # The second half of the encoder's output is the posterior's logarithmic variance: left alone.
    out.weight[:channels] = torch.einsum("ab,bchw->achw", forth, out.weight[:channels])
    out.bias[:channels] = forth @ out.bias[:channels]
    into.weight.copy_(torch.einsum("obhw,ba->oahw", into.weight, back))


@torch.no_grad()
def measure_scale(vae: AutoencoderKL, seed: int, device: torch.device) -> LatentScale:
    """The shift and scale that give the latents of 256 drawings zero mean and unit spread."""
    latents = _measured_latents(vae, seed, device)
    return LatentScale(round(latents.mean().item(), 4), round(1 / latents.std().item(), 4))


def _measured_latents(vae: AutoencoderKL, seed: int, device: torch.device) -> Tensor:
    rng = random.Random(step_seed(seed, "vae-scale"))
    drawings = [draw(sample_spec(rng)) for _ in range(256)]
    pictures = to_tensor(drawings)[0].to(device, memory_format=torch.channels_last)
    return torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(pictures, 32)])
