"""Noise schedulers by our names, fresh for each picture, on the settings of the model's own.

Fresh, because a scheduler keeps state between steps, and a cancelled picture leaves it half-way.
`diffusion_scheduler` is for Stable Diffusion 1.5 and XL, `flow_scheduler` and `noise_levels` are
for flow-matching models (Flux, Stable Diffusion 3). What other tools call them: domain/samplers.py.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from genserve.domain.samplers import SIGMAS, WITHOUT_SIGMAS

_EVERYWHERE = {"steps_offset": 1}
"""Stable Diffusion's own timesteps begin at 1. Older models' files say 0, or nothing."""
_FEW_STEPS = 10
_LCM_STEPS = 50
"""The steps that an LCM was distilled from (the library's default)."""
_LEAST_SHARE = 1 / 50
"""Where the step of the least strength starts, unless the steps that are asked for are finer."""


class AnywhereLMS(LMSDiscreteScheduler):  # type: ignore[misc] # untyped base
    """Linear multistep that may begin anywhere in the schedule, as image to image does.

    The library's class takes the order from the position in the schedule, so that a walk that
    begins in its middle weighs its first derivative as one of four that are not there.
    """

    def step(
        self,
        model_output: Any,
        timestep: Any,
        sample: Any,
        order: int = 4,
        return_dict: bool = True,
    ) -> Any:
        """As the library's, of no higher order than there are derivatives."""
        known = len(self.derivatives) + 1
        return super().step(model_output, timestep, sample, min(order, known), return_dict)


class AnywherePNDM(PNDMScheduler):  # type: ignore[misc] # untyped base
    """Pseudo linear multistep that may begin anywhere in the schedule.

    The library's class walks the second timestep twice, to mend its first step. A walk that begins
    in the middle does not meet that timestep twice, and ends one level too early. This one walks
    each timestep once: its first step is Euler's, the next ones are of growing order.
    """

    counter: int

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """As the library's, without the timestep that comes twice."""
        super().set_timesteps(num_inference_steps, device)
        self.plms_timesteps = self._timesteps[::-1].copy()
        self.timesteps = torch.from_numpy(self.plms_timesteps.astype(np.int64)).to(device)

    def step_plms(
        self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True
    ) -> Any:
        """As the library's, without the counter's second value, which mends the first step."""
        stepped = super().step_plms(model_output, timestep, sample, return_dict)
        self.counter = max(self.counter, 2)
        return stepped


class SpacedEulerAncestral(EulerAncestralDiscreteScheduler):  # type: ignore[misc] # untyped base
    """Euler's ancestral method on levels spaced as another scheduler spaces them.

    The library's class knows only the training's own spacing; A1111 and NovelAI draw "Euler a" on
    karras levels as well.
    """

    def __init__(self, levels: EulerDiscreteScheduler, settings: Mapping[str, Any]) -> None:
        known = self._get_init_keys(EulerAncestralDiscreteScheduler)
        super().__init__(**{name: settings[name] for name in known if name in settings})
        self._levels = levels

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """As the other scheduler's."""
        self._levels.set_timesteps(num_inference_steps, device=device)
        self.num_inference_steps = num_inference_steps
        self.timesteps, self.sigmas = self._levels.timesteps, self._levels.sigmas
        self._step_index = None
        self._begin_index = None


class HeunOnModelSchedule(FlowMatchHeunDiscreteScheduler):  # type: ignore[misc] # untyped base
    """Heun's second-order method on the noise levels that the model's own scheduler makes.

    The library's class knows only an even schedule. FLUX.1 shifts its levels by the size of the
    picture, which only its Euler scheduler can do: so that one makes the levels and this one
    walks them. `steps` levels take 2 x steps - 1 evaluations of the network.
    """

    def __init__(self, levels: FlowMatchEulerDiscreteScheduler) -> None:
        super().__init__(num_train_timesteps=levels.config.num_train_timesteps)
        self._levels = levels

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: list[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """As the Euler scheduler's, with every inner level twice: once to guess, once to mend."""
        self._levels.set_timesteps(num_inference_steps, device=device, sigmas=sigmas, mu=mu)
        times, levels = self._levels.timesteps, self._levels.sigmas
        self.num_inference_steps = len(times)
        self.timesteps = torch.cat([times[:1], times[1:].repeat_interleave(2)])
        self.sigmas = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])
        self.prev_derivative = None
        self.dt = None
        self._step_index = None
        self._begin_index = None


_SDE = {"algorithm_type": "sde-dpmsolver++", "lower_order_final": True}
_UNCLIPPED = {"clip_sample": False}
"""Latents reach far beyond ±1, where these classes clip pixels unless told otherwise."""
_DIFFUSION: dict[str, tuple[Any, dict[str, Any]]] = {
    "dpmpp_2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "dpmpp_2m_sde": (DPMSolverMultistepScheduler, _SDE | {"solver_order": 2}),
    "dpmpp_3m_sde": (DPMSolverMultistepScheduler, _SDE | {"solver_order": 3}),
    "dpmpp_sde": (DPMSolverSinglestepScheduler, _SDE | {"solver_order": 2}),
    "ddim": (DDIMScheduler, _UNCLIPPED),
    "ddpm": (DDPMScheduler, _UNCLIPPED),
    "deis": (DEISMultistepScheduler, {"algorithm_type": "deis", "solver_type": "logrho"}),
    "dpm2": (KDPM2DiscreteScheduler, {}),
    "dpm2_a": (KDPM2AncestralDiscreteScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "lcm": (LCMScheduler, _UNCLIPPED),
    "lms": (AnywhereLMS, {}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "unipc": (UniPCMultistepScheduler, {"solver_type": "bh2"}),
}


def diffusion_scheduler(
    name: str,
    own: Mapping[str, Any],
    *,
    steps: int,
    sigmas: str | None = None,
    whole: bool = True,
) -> Any:
    """A fresh scheduler by its canonical name, for a model that predicts noise or velocity.

    `own` is what the model's scheduler_config.json says.

    What was trained (betas, prediction type, zero terminal SNR) comes from the model's own
    scheduler, and so does the spacing of timesteps, with two exceptions. Named `sigmas` span all of
    the model's levels, as in k-diffusion. And for fewer than 10 steps "leading" becomes "trailing":
    it leaves out the noisiest levels, the more the fewer steps there are, although drawing starts
    from noise alone. `whole` says whether the walk begins at the schedule's first level.
    Raises `KeyError` for a name that is not known, or has no levels that could be spaced.
    """
    kind, options = _DIFFUSION[name]
    if sigmas is not None and name in WITHOUT_SIGMAS:
        raise KeyError(f"{name} {sigmas}")
    settings = {**own, **_EVERYWHERE, **options, **_levels(sigmas)}
    if name == "lcm":
        settings["original_inference_steps"] = max(_LCM_STEPS, steps)
    if name == "pndm" and not whole:
        kind = AnywherePNDM
    if name == "euler_a" and sigmas is not None:
        return SpacedEulerAncestral(_made(EulerDiscreteScheduler, settings), settings)
    scheduler = _made(kind, settings)
    if steps < _FEW_STEPS and scheduler.config.get("timestep_spacing") == "leading":
        return _made(kind, settings | {"timestep_spacing": "trailing"})
    return scheduler


def _levels(sigmas: str | None) -> dict[str, Any]:
    if sigmas is None:
        return {}
    unnamed = {f"use_{other}_sigmas": False for other in SIGMAS}
    return unnamed | {f"use_{sigmas}_sigmas": True, "timestep_spacing": "linspace"}


def _made(kind: Any, settings: Mapping[str, Any]) -> Any:
    """A scheduler with those of the settings that its class takes."""
    known = {name: settings[name] for name in kind._get_init_keys(kind) if name in settings}
    return deepcopy(_unused(kind, json.dumps(known, sort_keys=True)))


@lru_cache(maxsize=64)
def _unused(kind: Any, settings: str) -> Any:
    """Kept, because some of the library's classes walk all 1,000 trained levels when they are made:
    a fifth of a second or more for dpm2."""
    return kind(**json.loads(settings))


def flow_scheduler(name: str, of_model: Any, sigmas: str | None = None) -> Any:
    """A fresh scheduler by its canonical name, with the settings of the model's own.

    `sigmas` spaces the levels between the first and the last anew. Raises `KeyError` for a name
    that flow-matching models do not have.
    """
    named = {} if sigmas is None else {f"use_{other}_sigmas": other == sigmas for other in SIGMAS}
    euler = FlowMatchEulerDiscreteScheduler.from_config(of_model.config, **named)
    match name:
        case "euler":
            return euler
        case "heun":
            return HeunOnModelSchedule(euler)
        case _:
            raise KeyError(name)


def noise_levels(steps: int, strength: float = 1.0) -> list[float]:
    """Where each step starts, from 1 (noise alone) downwards; FLUX's even schedule.

    With `strength` below 1 the first levels are left out, as diffusers' img2img does. At least one
    step is made. Where the strength asks for less than a step, that one starts at the strength
    itself, since the schedule's last step would redraw more, and its only one everything.
    """
    if steps * strength < 1:
        return [max(strength, min(_LEAST_SHARE, 1 / steps))]
    levels: list[float] = np.linspace(1.0, 1 / steps, steps).tolist()
    return levels[int(steps - steps * strength) :]
