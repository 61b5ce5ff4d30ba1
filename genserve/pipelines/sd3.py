"""Stable Diffusion 3 and 3.5."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3Pipeline,
)
from PIL import Image
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5TokenizerFast,
)

from genserve.domain.model import ModelSpec, Offload
from genserve.domain.request import GenerationRequest, ImageRole, Mode
from genserve.errors import SideTooLong, UnsupportedMode
from genserve.pipelines import sd3_text, sd_decode
from genserve.pipelines.base import DeviceKind, Hook, Stage
from genserve.pipelines.placement import Placement
from genserve.pipelines.schedulers import flow_scheduler
from genserve.pipelines.sd_loading import Layout
from genserve.pipelines.sd_modes import Plan
from genserve.pipelines.sd_parts import SdParts
from genserve.pipelines.shelf import Shelf

LAYOUT = Layout(
    family="sd3",
    networks={
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
        "text_encoder_3": T5EncoderModel,
        "transformer": SD3Transformer2DModel,
    },
    tokenizers={
        "tokenizer": CLIPTokenizer,
        "tokenizer_2": CLIPTokenizer,
        "tokenizer_3": T5TokenizerFast,
    },
    marks=("model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight",),
    large=frozenset({"transformer", "text_encoder_3"}),
    optional=frozenset({"text_encoder", "text_encoder_2", "text_encoder_3"}),
)
_MODES = (Mode.TEXT2IMG, Mode.IMG2IMG, Mode.FILL)
_FINEST = 50
"""Into so many steps the least strength is divided: 0 redraws a fiftieth."""


class Sd3:
    """One Stable Diffusion 3 model in memory."""

    distilled_guidance = False

    def __init__(self) -> None:
        self._parts: SdParts | None = None
        self._spec: ModelSpec | None = None
        self._shelf: Shelf | None = None
        self._scheduler: Any = None

    @property
    def _loaded(self) -> tuple[SdParts, ModelSpec]:
        if self._parts is None or self._spec is None:
            raise LookupError("nothing is loaded")
        return self._parts, self._spec

    def load(self, spec: ModelSpec, device: DeviceKind, shelf: Shelf) -> None:
        """Read the model, see `sd_loading`. Any of its text encoders may be missing."""
        self._shelf, self._spec = shelf, spec
        self._parts = SdParts(spec, Placement.of(spec, device, shelf, self), LAYOUT)
        self._scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(self._parts.trained))

    def parts(self) -> Mapping[str, Any]:
        """The networks, see `Pipeline.parts`."""
        return self._loaded[0].networks()

    def lacking(self, request: GenerationRequest) -> Mapping[Path, Callable[[], object]]:
        """Nothing: it has no ControlNets here."""
        return {}

    def generate(
        self,
        request: GenerationRequest,
        seed: int,
        inputs: Mapping[ImageRole, Image.Image],
        hook: Hook,
    ) -> Image.Image:
        """Draw one picture, see `Pipeline.generate`."""
        parts, spec = self._loaded
        # 1. The mode's own pipeline with a fresh scheduler, and the pictures it is given
        planned = self._plan(request, inputs)
        with torch.no_grad(), parts.drawing(planned.pipe):
            # 2. The prompts
            hook.stage(Stage.TEXT)
            text = sd3_text.read(parts, spec, request, str(planned.pipe._execution_device))
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

    def _plan(self, request: GenerationRequest, inputs: Mapping[ImageRole, Image.Image]) -> Plan:
        """Raises `UnsupportedMode`, `SideTooLong`."""
        given: dict[str, Any] = {"width": request.width, "height": request.height}
        match request.mode:
            case Mode.TEXT2IMG:
                kind = StableDiffusion3Pipeline
            case Mode.IMG2IMG:
                kind = StableDiffusion3Img2ImgPipeline
                given["image"] = inputs[ImageRole.INIT]
            case Mode.FILL:
                kind = StableDiffusion3InpaintPipeline
                given["image"] = inputs[ImageRole.INIT]
                given["mask_image"] = inputs[ImageRole.MASK]
            case _:
                raise UnsupportedMode(model=request.model, mode=request.mode, supported=[*_MODES])
        schedule, steps = _steps(request)
        if request.mode is not Mode.TEXT2IMG:
            # Half a step less, so that a float's last digit cannot cost one.
            given["strength"] = 1.0 if request.strength == 1 else (steps - 0.5) / schedule
        given["num_inference_steps"] = schedule
        scheduler = flow_scheduler(request.scheduler or "euler", self._scheduler, request.sigmas)
        pipe = kind(**self._loaded[0].components(request), scheduler=scheduler)
        pipe.set_progress_bar_config(disable=True)
        _check_sides(pipe, request)
        return Plan(pipe, given, steps)

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


def _check_sides(pipe: Any, request: GenerationRequest) -> None:
    """The transformer knows the places of so many patches on a side, whatever the other side is."""
    config = pipe.transformer.config
    width, height = request.width or 0, request.height or 0
    longest = config.pos_embed_max_size * config.patch_size * pipe.vae_scale_factor
    if max(width, height) > longest:
        raise SideTooLong(model=request.model, width=width, height=height, max_side=longest)


def _steps(request: GenerationRequest) -> tuple[int, int]:
    """The schedule's steps, and how many of its last ones are made: the strength's share, at least
    one. Where that is less than a step, the schedule is made finer."""
    schedule = request.steps or 1
    strength = 1.0 if request.strength is None else request.strength
    if request.mode is Mode.TEXT2IMG:
        return schedule, schedule
    if schedule * strength < 1:
        finest = math.ceil(1 / strength) if strength > 1 / _FINEST else _FINEST
        return max(schedule, finest), 1
    return schedule, schedule - min(int(schedule - schedule * strength), schedule - 1)
