"""The transformer: rectified flow on the VAE's latents, in aspect-ratio buckets.

Latents (16, H/8, W/8) are packed 2 x 2 into tokens of 64 numbers, as FluxPipeline does, so that
a 128 x 128 picture is 64 tokens. At time t in 0..1 the model sees (1 - t) latents + t noise and
predicts noise - latents.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.overrides import TorchFunctionMode
from tqdm import tqdm  # type: ignore[import-untyped]

from .captions import caption
from .checkpoint import step_seed, write_atomically
from .scenes import BUCKETS, SceneSpec, draw, sample_spec
from .text import POOLED_WIDTH, SEQUENCE_WIDTH, TextEncoders
from .vae import to_tensor

LATENT_CHANNELS = 16
# Share of the training pictures, and of the steps, in each bucket.
BUCKET_SHARES = {"1:1": 0.44, "4:3": 0.14, "3:4": 0.14, "16:9": 0.14, "9:16": 0.14}
CAPTION_DROPOUT = 0.1
# See `SceneSpec.looseness`.
LOOSENESS = 0.1
# Without this, a subject is a fifth of the loss and its colour and shape come out wrong.
SUBJECT_WEIGHT = 3.0


def build_transformer() -> FluxTransformer2DModel:
    """3.7 M parameters: 2 double and 4 single blocks, 5 heads of 32."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=5,
        joint_attention_dim=SEQUENCE_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )


class FlowStage(nn.Module):
    """The parts that draw from a caption: the transformer, and the text encoders as they are."""

    def __init__(self, encoders: TextEncoders) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.encoders = encoders


def pack(latents: Tensor) -> Tensor:
    """(batch, 16, h, w) to (batch, h/2 * w/2, 64), as FluxPipeline packs."""
    batch, channels, height, width = latents.shape
    blocks = latents.view(batch, channels, height // 2, 2, width // 2, 2)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, channels * 4)


def position_ids(bucket: str) -> Tensor:
    """(tokens, 3): zero, row and column of each packed token."""
    width, height = BUCKETS[bucket]
    rows, columns = height // 16, width // 16
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] = torch.arange(rows)[:, None]
    ids[..., 2] = torch.arange(columns)[None]
    return ids.reshape(rows * columns, 3)


@dataclass
class LatentSet:
    """The training pictures of one bucket: specs, packed latents and each token's mask share."""

    specs: list[SceneSpec]
    latents: Tensor
    masks: Tensor


def bucket_specs(bucket: str, count: int, seed: int) -> list[SceneSpec]:
    rng = random.Random(step_seed(seed, "flow-data", bucket))
    return [sample_spec(rng, bucket, looseness=LOOSENESS) for _ in range(count)]


@torch.no_grad()
def encode_bucket(
    vae: AutoencoderKL, bucket: str, count: int, seed: int, device: torch.device
) -> LatentSet:
    specs = bucket_specs(bucket, count, seed)
    latents, masks = [], []
    for start in tqdm(range(0, count, 64), desc=f"latents {bucket}", mininterval=5):
        pictures, mask = to_tensor([draw(spec) for spec in specs[start : start + 64]])
        pictures = pictures.to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            mean = vae.encode(pictures).latent_dist.mean.float()
        scaled = (mean - vae.config.shift_factor) * vae.config.scaling_factor
        latents.append(pack(scaled).half().cpu())
        masks.append(nnf.max_pool2d(mask, 16).flatten(1).half())
    return LatentSet(specs, torch.cat(latents), torch.cat(masks))


def load_latents(
    folder: Path, vae: AutoencoderKL, count: int, seed: int, device: torch.device
) -> dict[str, LatentSet]:
    """Draws and encodes the training pictures, once: later runs of the same VAE read them back."""
    path = folder / "latents.pt"
    made_for = [count, seed, LOOSENESS, vae.config.shift_factor, vae.config.scaling_factor]
    stored = torch.load(path, weights_only=True) if path.exists() else {}
    numbers = {bucket: round(count * share) for bucket, share in BUCKET_SHARES.items()}
    if stored.get("made_for") == made_for:
        return {
            bucket: LatentSet(bucket_specs(bucket, number, seed), *stored[bucket])
            for bucket, number in numbers.items()
        }
    sets = {
        bucket: encode_bucket(vae, bucket, number, seed, device)
        for bucket, number in numbers.items()
    }
    kept = {bucket: [pictures.latents, pictures.masks] for bucket, pictures in sets.items()}
    write_atomically(path, {"made_for": made_for, **kept})
    return sets


@dataclass
class FlowBatch:
    """One step's input: `noisy` and `target` are (batch, tokens, 64), `times` (batch,)."""

    noisy: Tensor
    target: Tensor
    times: Tensor
    weights: Tensor
    captions: list[str]
    image_ids: Tensor
    generator: torch.Generator


def flow_batch(
    sets: dict[str, LatentSet], seed: int, stage: str, step: int, size: int, device: torch.device
) -> FlowBatch:
    rng = random.Random(step_seed(seed, stage, step))
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    bucket = rng.choices(list(BUCKET_SHARES), list(BUCKET_SHARES.values()))[0]
    pictures = sets[bucket]
    picks = torch.randint(len(pictures.specs), (size,), generator=generator)
    captions = [
        "" if rng.random() < CAPTION_DROPOUT else caption(pictures.specs[pick], rng)
        for pick in picks.tolist()
    ]
    latents = pictures.latents[picks].float()
    noise = torch.randn(latents.shape, generator=generator)
    times = sample_times(size, generator)
    mixed = torch.lerp(latents, noise, times[:, None, None])
    weights = 1 + SUBJECT_WEIGHT * pictures.masks[picks].float()[..., None]
    return FlowBatch(
        mixed.to(device),
        (noise - latents).to(device),
        times.to(device),
        weights.to(device),
        captions,
        position_ids(bucket).to(device),
        generator,
    )


def sample_times(size: int, generator: torch.Generator) -> Tensor:
    """Mostly logit-normal around 0.73, a fifth uniform so that no time is unseen.

    A token's mean colour has a variance of about 11 where noise has 1, so noise hides it late:
    shapes are decided at times of 0.6 to 0.95, while below that everything is soon learnt.
    """
    normal = torch.sigmoid(1.0 + torch.randn(size, generator=generator))
    uniform = torch.rand(size, generator=generator)
    return torch.where(torch.rand(size, generator=generator) < 0.2, uniform, normal)


def sample_guidance(size: int, generator: torch.Generator) -> Tensor:
    """Mostly 1..9 evenly; an eighth anywhere in 0..50, which is what users may ask for."""
    common = 1 + 8 * torch.rand(size, generator=generator)
    any_value = 50 * torch.rand(size, generator=generator) ** 2
    return torch.where(torch.rand(size, generator=generator) < 0.125, any_value, common)


class PlainAttention(TorchFunctionMode):
    """Attention as two matrix products: at under 100 tokens, torch's fused attention on a CPU
    spends four times as long in bf16 (47 ms against 12 ms for a batch of 48, with gradients)."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is nnf.scaled_dot_product_attention:
            query, key, value = args[:3] if len(args) >= 3 else (kwargs[n] for n in _ATTENTION_ARGS)
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
            return scores.softmax(-1).to(value.dtype) @ value
        return func(*args, **(kwargs or {}))


_ATTENTION_ARGS = ("query", "key", "value")


@contextmanager
def half_precision(device: torch.device) -> Iterator[None]:
    """bf16 autocast, and on a CPU the attention that is quick there."""
    attention = PlainAttention() if device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, torch.bfloat16), attention:
        yield


def velocity(
    transformer: FluxTransformer2DModel,
    batch: FlowBatch,
    text: tuple[Tensor, Tensor],
    guidance: Tensor,
) -> Tensor:
    """The transformer's prediction in bf16 autocast (1.35 times as fast on a CPU), as float32."""
    sequence, pooled = text
    with half_precision(batch.noisy.device):
        prediction: Tensor = transformer(
            hidden_states=batch.noisy,
            encoder_hidden_states=sequence,
            pooled_projections=pooled,
            timestep=batch.times,
            guidance=guidance,
            img_ids=batch.image_ids,
            txt_ids=torch.zeros(sequence.shape[1], 3, device=sequence.device),
            return_dict=False,
        )[0]
    return prediction.float()
