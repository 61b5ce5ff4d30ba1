"""The Flux family: FLUX.1 [dev] and its kin, and the tiny model of the same architecture."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, assert_never

import torch
from diffusers import FluxImg2ImgPipeline, FluxPipeline
from PIL import Image

from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest, ImageRole, Mode
from genserve.errors import UnsupportedMode
from genserve.pipelines.base import BrokenModel, DeviceKind, Hook, Stage, UnusablePicture
from genserve.pipelines.schedulers import flow_scheduler, noise_levels

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_AUTO_DTYPE: dict[DeviceKind, str] = {"cuda": "bfloat16", "cpu": "float32"}
_LONGEST_TEXT = 512
"""Tokens that diffusers' Flux pipelines take at most."""


class Flux:
    """One Flux model in memory."""

    distilled_guidance = True

    def __init__(self) -> None:
        self._pipe: Any = None

    def load(self, spec: ModelSpec, device: DeviceKind, dtype: str) -> None:
        """Read the folder: safetensors only, nothing from the network, no code from the folder."""
        if not (spec.folder / "model_index.json").is_file():
            raise BrokenModel("model_index.json is missing")
        pipe = FluxPipeline.from_pretrained(
            spec.folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=_DTYPES[_AUTO_DTYPE[device] if dtype == "auto" else dtype],
        )
        pipe.set_progress_bar_config(disable=True)
        self._pipe = pipe.to(device)
        self.distilled_guidance = bool(pipe.transformer.config.guidance_embeds)

    def generate(
        self,
        request: GenerationRequest,
        seed: int,
        inputs: Mapping[ImageRole, Image.Image],
        hook: Hook,
    ) -> Image.Image:
        """Draw one picture, see `Pipeline.generate`."""
        # 1. The mode's own pipeline, the noise levels to walk, and the picture to start from
        pipe, levels, picture = self._set_up(request, inputs)
        scheduler = request.scheduler or "euler"
        with torch.no_grad(), _scheduled(pipe, scheduler), _left_clean(pipe):
            # 2. The prompt, as far as the tokenizer reaches
            hook.stage(Stage.TEXT)
            text, pooled, _ = pipe.encode_prompt(
                request.prompt, None, max_sequence_length=self._text_length()
            )
            # 3. Noise from the seed, on the CPU: the same on every device
            generator = torch.Generator("cpu").manual_seed(seed)
            # 4. From noise to latents, step by step
            hook.stage(Stage.DENOISE)
            latents = pipe(
                prompt_embeds=text,
                pooled_prompt_embeds=pooled,
                width=request.width,
                height=request.height,
                num_inference_steps=len(levels),
                sigmas=levels,
                guidance_scale=request.guidance,
                generator=generator,
                output_type="latent",
                callback_on_step_end=_tell_steps(hook, len(levels)),
                **picture,
            ).images
            # 5. From latents to pixels
            hook.stage(Stage.DECODE)
            return self._decode(latents, request)

    def _set_up(
        self, request: GenerationRequest, inputs: Mapping[ImageRole, Image.Image]
    ) -> tuple[Any, list[float], dict[str, Any]]:
        steps = request.steps or 1
        match request.mode:
            case Mode.TEXT2IMG:
                return self._pipe, noise_levels(steps), {}
            case Mode.IMG2IMG:
                pipe = FluxImg2ImgPipeline(**self._pipe.components)
                pipe.set_progress_bar_config(disable=True)
                # Strength is in the levels already: the library's own way of leaving out the
                # first ones miscounts them for a scheduler of order 2.
                picture = {"image": inputs[ImageRole.INIT], "strength": 1.0}
                return pipe, noise_levels(steps, request.strength or 0.0), picture
            case (
                Mode.FILL
                | Mode.CONTROLNET
                | Mode.REDUX
                | Mode.EDIT
                | Mode.UPSCALE
                | Mode.PREPROCESS
            ):
                raise UnsupportedMode(
                    model=request.model, mode=request.mode, supported=["text2img", "img2img"]
                )
            case _:
                assert_never(request.mode)

    def _decode(self, latents: torch.Tensor, request: GenerationRequest) -> Image.Image:
        pipe, vae = self._pipe, self._pipe.vae
        _refuse_infinite(latents, "the latents")
        latents = pipe._unpack_latents(
            latents, request.height, request.width, pipe.vae_scale_factor
        )
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        pixels = vae.decode(latents, return_dict=False)[0]
        _refuse_infinite(pixels, "the pixels")
        image: Image.Image = pipe.image_processor.postprocess(pixels, output_type="pil")[0]
        return image

    def _text_length(self) -> int:
        return min(int(self._pipe.tokenizer_2.model_max_length), _LONGEST_TEXT)

    @contextmanager
    def low_memory(self) -> Iterator[None]:
        """Decode in tiles and slices while it is open: seams are possible, seldom seen."""
        vae = self._pipe.vae
        vae.enable_tiling()
        vae.enable_slicing()
        try:
            yield
        finally:
            vae.disable_tiling()
            vae.disable_slicing()

    def size_bytes(self) -> int:
        """What the weights take."""
        modules = (part for part in self._pipe.components.values() if hasattr(part, "parameters"))
        return sum(
            weight.numel() * weight.element_size()
            for module in modules
            for weight in module.parameters()
        )

    def unload(self) -> None:
        """Drop every component."""
        self._pipe = None


@contextmanager
def _scheduled(pipe: Any, name: str) -> Iterator[None]:
    """The request's scheduler for one picture; then the model's own again, untouched."""
    own = pipe.scheduler
    pipe.scheduler = flow_scheduler(name, own)
    try:
        yield
    finally:
        pipe.scheduler = own


@contextmanager
def _left_clean(pipe: Any) -> Iterator[None]:
    """What a pipeline call does at its good end is also done when it was cancelled."""
    try:
        yield
    finally:
        pipe.maybe_free_model_hooks()


def _tell_steps(hook: Hook, steps: int) -> Any:
    """The libraries' callback. A scheduler of order 2 calls it nearly twice for each step."""

    def on_step_end(pipe: Any, index: int, _: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        hook.step(math.ceil((index + 1) / pipe.scheduler.order), steps)
        return kwargs

    return on_step_end


def _refuse_infinite(values: torch.Tensor, what: str) -> None:
    if not bool(torch.isfinite(values).all()):
        raise UnusablePicture(f"{what} are not finite numbers")
