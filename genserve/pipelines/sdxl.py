"""Stable Diffusion XL, its finetunes and its ControlNets."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from genserve.domain.model import ModelSpec, Offload
from genserve.domain.request import GenerationRequest, ImageRole
from genserve.pipelines import prompts, sd_decode
from genserve.pipelines.base import DeviceKind, Hook, Stage
from genserve.pipelines.embeddings import trained_words
from genserve.pipelines.placement import Placement
from genserve.pipelines.sd_loading import Layout
from genserve.pipelines.sd_modes import Kinds, plan
from genserve.pipelines.sd_parts import SdParts
from genserve.pipelines.shelf import Shelf

LAYOUT = Layout(
    family="sdxl",
    networks={
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
        "unet": UNet2DConditionModel,
    },
    tokenizers={"tokenizer": CLIPTokenizer, "tokenizer_2": CLIPTokenizer},
    marks=(
        "model.diffusion_model.input_blocks.0.0.weight",
        "conditioner.embedders.1.model.positional_embedding",
    ),
    large=frozenset({"unet"}),
)
_KINDS = Kinds(
    text=StableDiffusionXLPipeline,
    picture=StableDiffusionXLImg2ImgPipeline,
    fill=StableDiffusionXLInpaintPipeline,
    control=StableDiffusionXLControlNetPipeline,
    control_picture=StableDiffusionXLControlNetImg2ImgPipeline,
    control_fill=StableDiffusionXLControlNetInpaintPipeline,
)
_OWN_LAYER = 2
"""SDXL was trained on the last layer but one of both text encoders."""


class Sdxl:
    """One Stable Diffusion XL model in memory."""

    distilled_guidance = False

    def __init__(self) -> None:
        self._parts: SdParts | None = None
        self._spec: ModelSpec | None = None
        self._shelf: Shelf | None = None

    @property
    def _loaded(self) -> tuple[SdParts, ModelSpec]:
        if self._parts is None or self._spec is None:
            raise LookupError("nothing is loaded")
        return self._parts, self._spec

    def load(self, spec: ModelSpec, device: DeviceKind, shelf: Shelf) -> None:
        """Read the model, see `sd_loading`. On a GPU "auto" is what it was trained in: float16."""
        self._shelf, self._spec = shelf, spec
        placement = Placement.of(spec, device, shelf, self)
        if spec.dtype == "auto" and device == "cuda":
            placement = replace(placement, dtype=torch.float16)
        self._parts = SdParts(spec, placement, LAYOUT, careful_vae=True)

    def parts(self) -> Mapping[str, Any]:
        """The networks, see `Pipeline.parts`."""
        return self._loaded[0].networks()

    def lacking(self, request: GenerationRequest) -> Mapping[Path, Callable[[], object]]:
        """The ControlNet that the request asks for, see `Pipeline.lacking`."""
        return self._loaded[0].controlnets.lacking(request)

    def generate(
        self,
        request: GenerationRequest,
        seed: int,
        inputs: Mapping[ImageRole, Image.Image],
        hook: Hook,
    ) -> Image.Image:
        """Draw one picture, see `Pipeline.generate`."""
        parts, _ = self._loaded
        # 1. The mode's own pipeline with a fresh scheduler, and the pictures it is given
        planned = plan(_KINDS, parts, request, inputs, add_watermarker=False)
        with torch.no_grad(), parts.drawing(planned.pipe):
            # 2. The prompts
            hook.stage(Stage.TEXT)
            text = self._read(request, str(planned.pipe._execution_device))
            # 3. Noise from the seed, on the CPU: the same on every device
            generator = torch.Generator("cpu").manual_seed(seed)
            # 4. From noise to latents, step by step
            hook.stage(Stage.DENOISE)
            latents = planned.pipe(
                **text,
                guidance_scale=request.guidance,
                generator=generator,
                output_type="latent",
                callback_on_step_end=sd_decode.teller(hook, planned.pipe.vae, planned.steps),
                **planned.given,
            ).images
            # 5. From latents to pixels
            hook.stage(Stage.DECODE)
            return sd_decode.decode(planned.pipe, latents)

    def _read(self, request: GenerationRequest, device: str) -> dict[str, Any]:
        """Both prompts as the UNet reads them, by both text encoders side by side.

        A clip_skip of 1 is read as 2, the layer that SDXL was trained on. An empty negative prompt
        is zeros, as in training, and not an empty text.
        """
        parts, spec = self._loaded
        texts = (request.prompt, request.negative_prompt)
        names = {
            "clip_l": ("tokenizer", "text_encoder"),
            "clip_g": ("tokenizer_2", "text_encoder_2"),
        }
        widths = {key: parts[network].config.hidden_size for key, (_, network) in names.items()}
        words = trained_words(texts, spec.embeddings, widths)
        layer = prompts.hidden_layer(max(request.clip_skip or 1, _OWN_LAYER))
        encoders = [
            prompts.TextEncoder(parts[tokenizer], parts[network], layer, words[key])
            for key, (tokenizer, network) in names.items()
        ]
        wanted, unwanted = prompts.encode(texts, encoders, device)
        pooled, unwanted_pooled = prompts.pool(texts, encoders[-1], device)
        if not request.negative_prompt:
            unwanted, unwanted_pooled = torch.zeros_like(wanted), torch.zeros_like(pooled)
        return {
            "prompt_embeds": wanted,
            "negative_prompt_embeds": unwanted,
            "pooled_prompt_embeds": pooled,
            "negative_pooled_prompt_embeds": unwanted_pooled,
        }

    def low_memory(self) -> AbstractContextManager[None]:
        """See `SdParts.tiled`."""
        return self._loaded[0].tiled()

    def offloaded(self, how: Offload) -> AbstractContextManager[None] | None:
        """See `Pipeline.offloaded`."""
        return self._loaded[0].offloaded(how)

    def size_bytes(self) -> int:
        """What no other model holds too."""
        return self._parts.alone_bytes() if self._parts is not None else 0

    def unload(self) -> None:
        """Drop every component."""
        if self._parts is not None:
            self._parts.give_back()
        if self._shelf is not None:
            self._shelf.give_back(self)
        self._parts = None
