"""Which of diffusers' Flux pipelines draws a mode with which model, and what it is given for it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from diffusers import (
    FluxControlImg2ImgPipeline,
    FluxControlNetImg2ImgPipeline,
    FluxControlNetPipeline,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextPipeline,
    FluxPipeline,
)
from PIL import Image

from genserve.domain.request import Control, ControlType, GenerationRequest, ImageRole, Mode
from genserve.errors import UnsupportedMask, UnsupportedMode
from genserve.pipelines.controlnets import control_of
from genserve.pipelines.flux_loading import FluxParts, Kind
from genserve.pipelines.schedulers import noise_levels

Inputs = Mapping[ImageRole, Image.Image]

UNION_MODES = {ControlType.CANNY: 0, ControlType.DEPTH: 2, ControlType.OPENPOSE: 4}
"""Numbers of the modes of FLUX.1-dev-ControlNet-Union (InstantX and Shakker-Labs), from its card:
canny 0, tile 1, depth 2, blur 3, pose 4, gray 5, low quality 6."""

_PATCH = 16
"""Pixels: two by two latent pixels of eight each."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one picture is drawn: by which pipeline, from which noise levels, given what else."""

    pipe: Any
    levels: list[float]
    given: dict[str, Any]


def plan(parts: FluxParts, request: GenerationRequest, inputs: Inputs) -> Plan:
    """The plan of one picture.

    Raises `UnsupportedMode`, `UnsupportedControl`, `UnsupportedMask`.
    """
    if request.mode not in modes_of(parts):
        raise UnsupportedMode(model=request.model, mode=request.mode, supported=[*modes_of(parts)])
    match request.mode:
        case Mode.TEXT2IMG | Mode.REDUX:
            return _from_text(parts, request)
        case Mode.IMG2IMG:
            return _from_picture(parts, request, inputs)
        case Mode.FILL:
            return _filling(parts, request, inputs[ImageRole.INIT], inputs[ImageRole.MASK])
        case Mode.CONTROLNET:
            return _controlled(parts, request, inputs)
        case Mode.EDIT:
            return _edited(parts, request, inputs[ImageRole.REFERENCE])
        case Mode.UPSCALE | Mode.PREPROCESS:
            raise AssertionError("no model of this family offers it")
        case _:
            assert_never(request.mode)


def modes_of(parts: FluxParts) -> tuple[Mode, ...]:
    """What these networks can do."""
    match parts.kind:
        case Kind.FILL:
            return (Mode.TEXT2IMG, Mode.IMG2IMG, Mode.FILL)
        case Kind.CONTROL:
            return (Mode.CONTROLNET,)
        case Kind.KONTEXT:
            return (Mode.TEXT2IMG, Mode.EDIT)
        case Kind.BASE:
            added = (Mode.CONTROLNET,) * bool(parts.controlnets) + (Mode.REDUX,) * bool(parts.redux)
            return (Mode.TEXT2IMG, Mode.IMG2IMG, Mode.FILL, *added)
        case _:
            assert_never(parts.kind)


def _from_text(parts: FluxParts, request: GenerationRequest) -> Plan:
    if parts.kind is Kind.FILL:  # everything is to be filled, so what lies below does not count
        size = (request.width or 0, request.height or 0)
        return _filling(parts, request, Image.new("RGB", size), Image.new("L", size, 255))
    return Plan(FluxPipeline(**parts.components()), noise_levels(request.steps or 1), {})


def _from_picture(parts: FluxParts, request: GenerationRequest, inputs: Inputs) -> Plan:
    init = inputs[ImageRole.INIT]
    if parts.kind is Kind.FILL:
        return _filling(parts, request, init, Image.new("L", init.size, 255))
    return _redrawing(FluxImg2ImgPipeline(**parts.components()), request, {"image": init})


def _filling(
    parts: FluxParts, request: GenerationRequest, init: Image.Image, mask: Image.Image
) -> Plan:
    make: Callable[..., Any] = FluxFillPipeline if parts.kind is Kind.FILL else FluxInpaintPipeline
    given = {"image": init, "mask_image": mask}
    return _redrawing(make(**parts.components()), request, given)


def _redrawing(pipe: Any, request: GenerationRequest, given: dict[str, Any]) -> Plan:
    """Starts from a picture under as much noise as the strength says.

    Strength is in the levels already: the library's own way of leaving out the first ones
    miscounts them for a scheduler of order 2.
    """
    strength = 1.0 if request.mode is Mode.TEXT2IMG else request.strength or 0.0
    return Plan(pipe, noise_levels(request.steps or 1, strength), {"strength": 1.0, **given})


def _controlled(parts: FluxParts, request: GenerationRequest, inputs: Inputs) -> Plan:
    if ImageRole.MASK in inputs:
        raise UnsupportedMask(model=request.model)
    given: dict[str, Any] = {"control_image": inputs[ImageRole.CONTROL]}
    components = parts.components()
    plain, redrawing = FluxControlPipeline, FluxControlImg2ImgPipeline
    if parts.kind is Kind.BASE:
        plain, redrawing = FluxControlNetPipeline, FluxControlNetImg2ImgPipeline
        control = control_of(request)
        components["controlnet"] = parts.controlnets.of(request)
        given |= _how_strongly(components["controlnet"], control)
    if (init := inputs.get(ImageRole.INIT)) is not None:
        return _redrawing(redrawing(**components), request, {"image": init, **given})
    return Plan(plain(**components), noise_levels(request.steps or 1), given)


def _how_strongly(controlnet: Any, control: Control) -> dict[str, Any]:
    union = controlnet.union and control.type is not None
    return {
        "controlnet_conditioning_scale": control.weight,
        "control_guidance_start": control.start,
        "control_guidance_end": control.end,
        "control_mode": UNION_MODES[control.type] if union and control.type else None,
    }


def _edited(parts: FluxParts, request: GenerationRequest, reference: Image.Image) -> Plan:
    given: dict[str, Any] = {
        "image": reference,
        # Without it the library draws a megapixel, whatever was asked for.
        "max_area": (request.width or 0) * (request.height or 0),
    }
    if parts.native_pixels is not None:  # the library would show it a megapixel
        given |= {"image": _about(reference, parts.native_pixels), "_auto_resize": False}
    return Plan(FluxKontextPipeline(**parts.components()), noise_levels(request.steps or 1), given)


def _about(image: Image.Image, pixels: int) -> Image.Image:
    """The picture in its own shape, with about that many pixels, in whole patches."""
    scale = math.sqrt(pixels / (image.width * image.height)) / _PATCH
    width, height = (max(1, round(side * scale)) * _PATCH for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)
