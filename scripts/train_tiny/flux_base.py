"""The shipped tiny-flux-dev as its further members see it: frozen, in float32, from its folder.

Members are trained on what is shipped, not on checkpoints of its training: anyone can train them
again from a clone, and what they add fits the 16-bit weights exactly.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.utils import logging
from torch import Tensor
from torch.nn import functional as nnf

from .evaluate import load_pipeline
from .flow import FlowBatch, pack, position_ids, sample_times
from .pairs import Picked

# How much more the emphasised tokens count, as the subject's do for the base.
EMPHASIS = 3.0
_WEIGHTS = ("transformer", "vae", "text_encoder", "text_encoder_2")
_VAE_FACTOR = 8


def fingerprint_of(folder: Path, parts: tuple[str, ...] = _WEIGHTS) -> str:
    """Changes when the base's weights do."""
    digest = hashlib.sha256()
    for part in parts:
        for path in sorted((folder / part).glob("*.safetensors")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class FluxBase:
    """The base's networks, and how it sees captions and pictures: a `Codec` of packed latents."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        logging.set_verbosity_error()  # a truncated caption is nothing to report at each step
        self.pipeline = load_pipeline(folder)
        self.device = device
        self.fingerprint = fingerprint_of(folder)
        self.vae: AutoencoderKL = self.pipeline.vae
        self.transformer: FluxTransformer2DModel = self.pipeline.transformer
        for part in _WEIGHTS:
            getattr(self.pipeline, part).to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def text(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Sequence (batch, 32, 128) and pooled vector (batch, 64), as the pipeline makes them."""
        length = self.pipeline.tokenizer_2.model_max_length
        sequence, pooled, _ = self.pipeline.encode_prompt(
            captions, None, device=self.device, max_sequence_length=length
        )
        return sequence, pooled

    @torch.no_grad()
    def latents(self, pictures: Tensor) -> Tensor:
        """Packed and scaled, (batch, tokens, 64)."""
        mean = self.vae.encode(pictures).latent_dist.mean
        config = self.vae.config
        return pack((mean - config.shift_factor) * config.scaling_factor)

    def weights(self, masks: Tensor) -> Tensor:
        """(batch, tokens)"""
        return nnf.max_pool2d(masks, 2 * _VAE_FACTOR).flatten(1)

    def hints(self, hints: Tensor) -> Tensor:
        """Of control pictures: their latents. Of pictures with a mask as fourth channel, as
        FluxFillPipeline: latents of what is not masked, and the mask, (batch, tokens, 64 + 256)."""
        pictures = hints[:, :3].float() / 127.5 - 1
        if hints.shape[1] == 3:
            return self.latents(pictures).half()
        masks = (hints[:, 3:].float() / 255).round()
        known = self.latents(pictures * (1 - masks))
        return torch.cat([known, pack_mask(masks)], dim=2).half()


def pack_mask(masks: Tensor) -> Tensor:
    """(batch, 1, height, width) to (batch, tokens, 256): 8 x 8 pixels are one latent pixel's 64
    channels, which are packed as latents are."""
    batch, _, height, width = masks.shape
    rows, columns = height // _VAE_FACTOR, width // _VAE_FACTOR
    blocks = masks.view(batch, rows, _VAE_FACTOR, columns, _VAE_FACTOR).permute(0, 2, 4, 1, 3)
    return pack(blocks.reshape(batch, _VAE_FACTOR**2, rows, columns))


def flow_batch_of(picked: Picked, device: torch.device) -> FlowBatch:
    """Noise on the picked examples, as for the base's own training."""
    noise = torch.randn(picked.latents.shape, generator=picked.generator)
    times = sample_times(len(noise), picked.generator)
    noisy = torch.lerp(picked.latents, noise, times[:, None, None])
    return FlowBatch(
        noisy.to(device),
        (noise - picked.latents).to(device),
        times.to(device),
        (1 + EMPHASIS * picked.weights[..., None]).to(device),
        picked.captions,
        position_ids(picked.bucket).to(device),
        picked.generator,
    )
