"""The Flux family: FLUX.1 [dev], its kin and its tools, and the tiny models of the same make."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline, FluxPriorReduxPipeline
from PIL import Image

from genserve.domain.model import ModelSpec, Offload
from genserve.domain.request import GenerationRequest, ImageRole, Mode
from genserve.pipelines import flux_loading, offloading
from genserve.pipelines.base import DeviceKind, Hook, Stage, UnusablePicture
from genserve.pipelines.flux_loading import FluxParts
from genserve.pipelines.flux_modes import plan
from genserve.pipelines.placement import Placement
from genserve.pipelines.preview import Previewer
from genserve.pipelines.schedulers import flow_scheduler
from genserve.pipelines.shelf import Shelf

_LONGEST_TEXT = 512
"""Tokens that diffusers' Flux pipelines take at most."""


class Flux:
    """One Flux model in memory."""

    distilled_guidance = True

    def __init__(self) -> None:
        self._parts: FluxParts | None = None
        self._shelf: Shelf | None = None
        self._device: DeviceKind = "cpu"
        self._offload: Offload = "none"
        self._text_tokens = _LONGEST_TEXT

    @property
    def _loaded(self) -> FluxParts:
        if self._parts is None:
            raise LookupError("nothing is loaded")
        return self._parts

    def load(self, spec: ModelSpec, device: DeviceKind, shelf: Shelf) -> None:
        """Read the model, see `flux_loading`."""
        self._shelf, self._device = shelf, device
        placement = Placement.of(spec, device, shelf, self)
        self._offload = placement.offload
        self._parts = flux_loading.load(spec, placement)
        tokens = int(spec.options.get("text_tokens", _LONGEST_TEXT))
        self._text_tokens = min(tokens, self._parts.tokenizer_2.model_max_length, _LONGEST_TEXT)
        self.distilled_guidance = bool(self._parts.transformer.config.guidance_embeds)

    def parts(self) -> Mapping[str, Any]:
        """The networks, see `Pipeline.parts`."""
        return self._loaded.networks()

    def lacking(self, request: GenerationRequest) -> Mapping[Path, Callable[[], object]]:
        """The ControlNet that the request asks for, see `Pipeline.lacking`."""
        return self._loaded.controlnets.lacking(request)

    def generate(
        self,
        request: GenerationRequest,
        seed: int,
        inputs: Mapping[ImageRole, Image.Image],
        hook: Hook,
    ) -> Image.Image:
        """Draw one picture, see `Pipeline.generate`."""
        # 1. The mode's own pipeline, the noise levels to walk, and the pictures it is given
        planned = plan(self._loaded, request, inputs)
        pipe, steps = planned.pipe, len(planned.levels)
        pipe.set_progress_bar_config(disable=True)
        # A fresh scheduler for each picture: it keeps state, which a cancelled one leaves behind
        own = self._loaded.scheduler
        pipe.scheduler = flow_scheduler(request.scheduler or "euler", own, request.sigmas)
        with torch.no_grad(), offloading.drawing(pipe, self._device, self._offload):
            # 2. The prompt, as far as the tokenizer reaches; with Redux a picture's words too
            hook.stage(Stage.TEXT)
            text, pooled, _ = pipe.encode_prompt(
                request.prompt, None, max_sequence_length=self._text_tokens
            )
            if request.mode is Mode.REDUX:
                text = torch.cat([text, self._seen(request, inputs)], dim=1)
            # 3. Noise from the seed, on the CPU: the same on every device
            generator = torch.Generator("cpu").manual_seed(seed)
            # 4. From noise to latents, step by step
            hook.stage(Stage.DENOISE)
            latents = pipe(
                prompt_embeds=text,
                pooled_prompt_embeds=pooled,
                width=request.width,
                height=request.height,
                num_inference_steps=steps,
                sigmas=planned.levels,
                guidance_scale=request.guidance,
                generator=generator,
                output_type="latent",
                callback_on_step_end=self._teller(hook, steps, request),
                **planned.given,
            ).images
            # 5. From latents to pixels
            hook.stage(Stage.DECODE)
            return self._decode(pipe, latents, request)

    def _seen(
        self, request: GenerationRequest, inputs: Mapping[ImageRole, Image.Image]
    ) -> torch.Tensor:
        """The reference as words, 1 x words x width of the text; strength is how loud they are."""
        redux = self._loaded.redux
        if redux is None:
            raise LookupError("the model has no picture encoder")
        prior = FluxPriorReduxPipeline(
            image_encoder=redux.image_encoder,
            feature_extractor=redux.feature_extractor,
            image_embedder=redux.image_embedder,
        )
        with offloading.drawing(prior, self._device, self._offload):
            seen = prior.encode_image(inputs[ImageRole.REFERENCE], prior._execution_device, 1)
            words: torch.Tensor = redux.image_embedder(seen).image_embeds
        return words * (1.0 if request.strength is None else request.strength)

    def _teller(self, hook: Hook, steps: int, request: GenerationRequest) -> Any:
        """The libraries' callback. A scheduler of order 2 calls it nearly twice for each step."""
        previewer = Previewer(self._loaded.vae, lambda latents: self._unpacked(latents, request))

        def on_step_end(pipe: Any, index: int, _: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            previewer.saw(hook, pipe.scheduler, index, kwargs["latents"])
            hook.step(math.ceil((index + 1) / pipe.scheduler.order), steps)
            return kwargs

        return on_step_end

    def _decode(self, pipe: Any, latents: torch.Tensor, request: GenerationRequest) -> Image.Image:
        _refuse_infinite(latents, "the latents")
        unpacked = self._unpacked(latents, request)
        pixels = self._loaded.vae.decode(unpacked, return_dict=False)[0]
        _refuse_infinite(pixels, "the pixels")
        image: Image.Image = pipe.image_processor.postprocess(pixels, output_type="pil")[0]
        return image

    def _unpacked(self, latents: torch.Tensor, request: GenerationRequest) -> torch.Tensor:
        """From patches to what the VAE decodes, 1 x channels x height x width."""
        config = self._loaded.vae.config
        scale = 2 ** (len(config.block_out_channels) - 1)
        spread: torch.Tensor = FluxPipeline._unpack_latents(
            latents, request.height, request.width, scale
        )
        unscaled: torch.Tensor = spread / config.scaling_factor + config.shift_factor
        return unscaled

    @contextmanager
    def low_memory(self) -> Iterator[None]:
        """Decode in tiles and slices while it is open: seams are possible, seldom seen."""
        vae = self._loaded.vae
        vae.enable_tiling()
        vae.enable_slicing()
        try:
            yield
        finally:
            vae.disable_tiling()
            vae.disable_slicing()

    def offloaded(self, how: Offload) -> AbstractContextManager[None] | None:
        """See `Pipeline.offloaded`."""
        if self._device == "cpu":
            return None
        held = offloading.moved_out(
            lambda: self._loaded.networks().values(), self._device, self._offload, how
        )
        return None if held is None else self._waiting(held, how)

    @contextmanager
    def _waiting(self, held: AbstractContextManager[None], how: Offload) -> Iterator[None]:
        before = self._offload
        with held:
            self._offload = how
            try:
                yield
            finally:
                self._offload = before

    def size_bytes(self) -> int:
        """What no other model holds too."""
        return self._shelf.alone_bytes(self) if self._shelf is not None else 0

    def unload(self) -> None:
        """Drop every component."""
        self._parts = None
        if self._shelf is not None:
            self._shelf.give_back(self)


def _refuse_infinite(values: torch.Tensor, what: str) -> None:
    if not bool(torch.isfinite(values).all()):
        raise UnusablePicture(f"{what} are not finite numbers")
