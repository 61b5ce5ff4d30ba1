"""Asks for pictures: what is wanted (`Order`), and diffusers' pipelines as painters.

The figures of the family's members take any painter: these ones when a member is trained, and
GenServe's own recipes in the tests of what the server draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxPriorReduxPipeline,
    FluxTransformer2DModel,
)
from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped]

from .canvas import Pixels
from .evaluate import load_pipeline
from .lora_formats import DIFFUSERS_NAME
from .scenes import BUCKETS

STEPS = 20
GUIDANCE = 3.5
BATCH = 25


@dataclass(frozen=True)
class Order:
    """A picture that is asked for. `picture` is what the mode needs: the control map, the picture
    to fill with its `mask`, or the reference; `seed` is that of the noise."""

    prompt: str
    seed: int
    bucket: str = "1:1"
    picture: Pixels | None = None
    mask: Pixels | None = None
    negative: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return BUCKETS[self.bucket]


Painter = Callable[[Sequence[Order]], list[Pixels]]


def in_batches(
    orders: Sequence[Order], label: str, paint: Callable[[Sequence[Order]], Any]
) -> list[Pixels]:
    """The pictures of `paint`, (batch, height, width, 3) in 0..1, as 8 bits. Orders of one batch
    are of one size."""
    pictures: list[Pixels] = []
    for start in tqdm(range(0, len(orders), BATCH), desc=label, mininterval=5):
        part = orders[start : start + BATCH]
        pictures.extend((np.asarray(paint(part)) * 255).round().astype(np.uint8))
    return pictures


def noise_of(orders: Sequence[Order]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(order.seed) for order in orders]


def pictures_of(orders: Sequence[Order]) -> list[Image.Image]:
    return [Image.fromarray(order.picture) for order in orders if order.picture is not None]


def common(pipeline: Any, orders: Sequence[Order]) -> dict[str, Any]:
    """What every Flux pipeline is called with."""
    width, height = orders[0].size
    return {
        "prompt": [order.prompt for order in orders],
        "width": width,
        "height": height,
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "max_sequence_length": pipeline.tokenizer_2.model_max_length,
        "generator": noise_of(orders),
        "output_type": "np",
    }


def plain_painter(base: Path) -> Painter:
    """The base from text alone."""
    pipeline = load_pipeline(base)
    return lambda orders: in_batches(
        orders, "base", lambda part: pipeline(**common(pipeline, part)).images
    )


def _with_transformer(kind: Any, base: Path, folder: Path) -> Any:
    """The base's pipeline of that kind, with the folder's Control-LoRA or whole transformer."""
    components = load_pipeline(base).components
    if (folder / "transformer").is_dir():
        components["transformer"] = FluxTransformer2DModel.from_pretrained(
            folder / "transformer", dtype=torch.float32, local_files_only=True
        )
    known = {name: part for name, part in components.items() if name in kind.model_cpu_offload_seq}
    known |= {name: components[name] for name in ("scheduler", "tokenizer", "tokenizer_2")}
    pipeline = kind(**known)
    if (folder / DIFFUSERS_NAME).is_file():
        pipeline.load_lora_weights(folder, weight_name=DIFFUSERS_NAME, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def control_painter(base: Path, folder: Path) -> Painter:
    """FluxControlPipeline: depth and canny."""
    pipeline = _with_transformer(FluxControlPipeline, base, folder)

    def paint(orders: Sequence[Order]) -> Any:
        return pipeline(**common(pipeline, orders), control_image=pictures_of(orders)).images

    return lambda orders: in_batches(orders, folder.name, paint)


def fill_painter(base: Path, folder: Path) -> Painter:
    """FluxFillPipeline; what is not masked is the VAE's picture of it."""
    pipeline = _with_transformer(FluxFillPipeline, base, folder)

    def paint(orders: Sequence[Order]) -> Any:
        masks = [Image.fromarray(order.mask) for order in orders if order.mask is not None]
        given = {"image": pictures_of(orders), "mask_image": masks}
        return pipeline(**common(pipeline, orders), **given).images

    return lambda orders: in_batches(orders, folder.name, paint)


def controlnet_painter(base: Path, folder: Path) -> Painter:
    """FluxControlNetPipeline: poses."""
    controlnet = FluxControlNetModel.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    pipeline = FluxControlNetPipeline(**load_pipeline(base).components, controlnet=controlnet)
    pipeline.set_progress_bar_config(disable=True)

    def paint(orders: Sequence[Order]) -> Any:
        return pipeline(**common(pipeline, orders), control_image=pictures_of(orders)).images

    return lambda orders: in_batches(orders, folder.name, paint)


def redux_painter(base: Path, folder: Path) -> Painter:
    """FluxPriorReduxPipeline's encoders, then the base: the reference's words behind the prompt's.

    The pipeline itself fits no base but FLUX.1: it has the text encoders' widths written in.
    """
    prior = FluxPriorReduxPipeline.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    pipeline = load_pipeline(base)

    def paint(orders: Sequence[Order]) -> Any:
        given = common(pipeline, orders)
        with torch.no_grad():
            seen = prior.encode_image(pictures_of(orders), torch.device("cpu"), 1)
            words = prior.image_embedder(seen).image_embeds
            text, pooled, _ = pipeline.encode_prompt(
                given.pop("prompt"), None, max_sequence_length=given["max_sequence_length"]
            )
        both = torch.cat([text, words], dim=1)
        return pipeline(**given, prompt_embeds=both, pooled_prompt_embeds=pooled).images

    return lambda orders: in_batches(orders, folder.name, paint)
