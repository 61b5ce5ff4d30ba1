"""How Stable Diffusion 1.5 and XL draw each mode: by which of diffusers' pipelines, given what."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from PIL import Image

from genserve.domain.request import Control, GenerationRequest, ImageRole, Mode
from genserve.errors import UnsupportedMode
from genserve.pipelines.controlnets import control_of
from genserve.pipelines.schedulers import diffusion_scheduler
from genserve.pipelines.sd_parts import SdParts

Inputs = Mapping[ImageRole, Image.Image]

_FINEST = 50
"""Into so many steps the least strength is divided: 0 redraws a fiftieth."""


@dataclass(frozen=True, slots=True)
class Kinds:
    """A family's pipelines in diffusers: without ControlNet and with one, each from text alone,
    from a picture, and with a mask."""

    text: Any
    picture: Any
    fill: Any
    control: Any
    control_picture: Any
    control_fill: Any


@dataclass(frozen=True, slots=True)
class Plan:
    """How one picture is drawn. `steps` are the network's, of a schedule that may have more."""

    pipe: Any
    given: dict[str, Any]
    steps: int


def plan(
    kinds: Kinds, parts: SdParts, request: GenerationRequest, inputs: Inputs, **built_with: Any
) -> Plan:
    """The plan of one picture. Raises `UnsupportedMode`, `UnsupportedControl`.

    `built_with` is what the family's pipelines are made with beside the components.
    """
    if request.mode not in modes_of(parts):
        raise UnsupportedMode(model=request.model, mode=request.mode, supported=[*modes_of(parts)])
    kind, given = _pictures(kinds, request, inputs)
    components = parts.components(request)
    if request.mode is Mode.CONTROLNET:
        control = control_of(request)
        components["controlnet"] = parts.controlnets.of(request)
        given |= _how_strongly(control)
    if kind is not kinds.picture:
        given |= {"width": request.width, "height": request.height}
    schedule, steps = _steps(request, redraws="strength" in given)
    if "strength" in given and steps < schedule:
        given["strength"] = (steps + 0.5) / schedule  # a float's last digit must not cost a step
    given["num_inference_steps"] = schedule
    scheduler = diffusion_scheduler(
        request.scheduler or "euler",
        parts.trained,
        steps=schedule,
        sigmas=request.sigmas,
        whole=steps == schedule,
    )
    pipe = kind(**components, scheduler=scheduler, **built_with)
    pipe.set_progress_bar_config(disable=True)
    return Plan(pipe, given, steps)


def modes_of(parts: SdParts) -> tuple[Mode, ...]:
    """What these networks can do."""
    if parts.fills_only:
        return (Mode.FILL,)
    controlled = (Mode.CONTROLNET,) if parts.controlnets else ()
    return (Mode.TEXT2IMG, Mode.IMG2IMG, Mode.FILL, *controlled)


def _pictures(
    kinds: Kinds, request: GenerationRequest, inputs: Inputs
) -> tuple[Any, dict[str, Any]]:
    """The pipeline, and what it is given to look at. `strength` only where something is redrawn."""
    strength = 1.0 if request.strength is None else request.strength
    match request.mode:
        case Mode.TEXT2IMG:
            return kinds.text, {}
        case Mode.IMG2IMG:
            return kinds.picture, {"image": inputs[ImageRole.INIT], "strength": strength}
        case Mode.FILL:
            masked = {"image": inputs[ImageRole.INIT], "mask_image": inputs[ImageRole.MASK]}
            return kinds.fill, {**masked, "strength": strength}
        case Mode.CONTROLNET:
            return _controlled(kinds, inputs, strength)
        case Mode.REDUX | Mode.EDIT | Mode.UPSCALE | Mode.PREPROCESS:
            raise AssertionError("no model of this family offers it")
        case _:
            assert_never(request.mode)


def _controlled(kinds: Kinds, inputs: Inputs, strength: float) -> tuple[Any, dict[str, Any]]:
    control = inputs[ImageRole.CONTROL]
    if (init := inputs.get(ImageRole.INIT)) is None:
        return kinds.control, {"image": control}
    given = {"image": init, "control_image": control, "strength": strength}
    if (mask := inputs.get(ImageRole.MASK)) is None:
        return kinds.control_picture, given
    return kinds.control_fill, {**given, "mask_image": mask}


def _how_strongly(control: Control) -> dict[str, Any]:
    return {
        "controlnet_conditioning_scale": control.weight,
        "control_guidance_start": control.start,
        "control_guidance_end": control.end,
    }


def _steps(request: GenerationRequest, *, redraws: bool) -> tuple[int, int]:
    """The schedule's steps, and how many of its last ones are made: the strength's share.

    At least one is made. Where the strength asks for less than a step, the schedule is made finer,
    since its only step would redraw everything.
    """
    schedule = request.steps or 1
    strength = 1.0 if request.strength is None else request.strength
    if not redraws or strength >= 1:
        return schedule, schedule
    if steps := int(schedule * strength):
        return schedule, steps
    finest = math.ceil(1 / strength) if strength > 1 / _FINEST else _FINEST
    return max(schedule, finest), 1
