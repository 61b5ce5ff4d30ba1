"""Stable Diffusion 1.5, its finetunes and its ControlNets."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

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
    family="sd15",
    networks={
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "unet": UNet2DConditionModel,
    },
    tokenizers={"tokenizer": CLIPTokenizer},
    marks=(
        "model.diffusion_model.input_blocks.0.0.weight",
        "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
    ),
    large=frozenset({"unet"}),
)
_KINDS = Kinds(
    text=StableDiffusionPipeline,
    picture=StableDiffusionImg2ImgPipeline,
    fill=StableDiffusionInpaintPipeline,
    control=StableDiffusionControlNetPipeline,
    control_picture=StableDiffusionControlNetImg2ImgPipeline,
    control_fill=StableDiffusionControlNetInpaintPipeline,
)
_UNCHECKED = {
    "safety_checker": None,
    "feature_extractor": None,
    "requires_safety_checker": False,
}


class Sd15:
    """One Stable Diffusion 1.5 model in memory."""

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
        self._parts = SdParts(spec, placement, LAYOUT)

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
        planned = plan(_KINDS, parts, request, inputs, **_UNCHECKED)
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
        """Both prompts as the UNet reads them: the layer that clip_skip names, normalised."""
        parts, spec = self._loaded
        texts = (request.prompt, request.negative_prompt)
        width = parts["text_encoder"].config.hidden_size
        words = trained_words(texts, spec.embeddings, {"clip_l": width})
        encoder = prompts.TextEncoder(
            parts["tokenizer"],
            parts["text_encoder"],
            prompts.clip_layer(request.clip_skip or 1),
            words["clip_l"],
        )
        wanted, unwanted = prompts.encode(texts, [encoder], device)
        return {"prompt_embeds": wanted, "negative_prompt_embeds": unwanted}

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
