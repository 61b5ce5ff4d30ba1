"""Noise schedulers of flow-matching models, by our names, and the noise levels they start from."""

from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler


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


def flow_scheduler(name: str, of_model: Any) -> Any:
    """A fresh scheduler by its canonical name, with the settings of the model's own.

    Fresh, because a scheduler keeps state between steps, and a cancelled picture leaves it
    half-way. Raises `KeyError` for a name that flow-matching models do not have.
    """
    euler = FlowMatchEulerDiscreteScheduler.from_config(of_model.config)
    match name:
        case "euler":
            return euler
        case "heun":
            return HeunOnModelSchedule(euler)
        case _:
            raise KeyError(name)


def noise_levels(steps: int, strength: float = 1.0) -> list[float]:
    """Where each step starts, from 1 (noise alone) downwards; FLUX's even schedule.

    With `strength` below 1 the first levels are left out, as diffusers' img2img does, but at
    least one step is made: strength 0 redraws as little as a step can.
    """
    levels: list[float] = np.linspace(1.0, 1 / steps, steps).tolist()
    first = min(int(steps - steps * strength), steps - 1)
    return levels[first:]
