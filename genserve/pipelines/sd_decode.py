"""From Stable Diffusion's latents to a picture, and what the latents look like until then."""

import math
from typing import Any

import torch
from PIL import Image

from genserve.pipelines.base import Hook, UnusablePicture
from genserve.pipelines.preview import Previewer


def decode(pipe: Any, latents: torch.Tensor) -> Image.Image:
    """The picture, in the numbers that the VAE computes in. Raises `UnusablePicture`."""
    _refuse_infinite(latents, "the latents")
    pixels = pipe.vae.decode(unscaled(pipe.vae, latents).to(pipe.vae.dtype), return_dict=False)[0]
    _refuse_infinite(pixels, "the pixels")
    image: Image.Image = pipe.image_processor.postprocess(pixels.float(), output_type="pil")[0]
    return image


def unscaled(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents as the VAE makes them, from latents as the network draws them.

    SD3's are shifted as well; some VAEs say a mean and a deviation for each channel.
    """
    config = vae.config
    mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and deviation is not None:
        shape = (1, -1, 1, 1)
        spread = torch.tensor(deviation).view(shape).to(latents)
        middle = torch.tensor(mean).view(shape).to(latents)
        return latents * spread / float(config.scaling_factor) + middle
    shift = float(getattr(config, "shift_factor", None) or 0.0)
    return latents / float(config.scaling_factor) + shift


def teller(hook: Hook, vae: Any, steps: int) -> Any:
    """The libraries' callback: tells the hook each step, and what is to be seen so far.

    A scheduler of order 2 calls it nearly twice for each step, PNDM once more than there are steps.
    """
    previewer = Previewer(vae, lambda latents: unscaled(vae, latents))

    def on_step_end(pipe: Any, index: int, _: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        left_out = len(pipe.scheduler.timesteps) - pipe.num_timesteps
        previewer.saw(hook, pipe.scheduler, left_out + index, kwargs["latents"])
        hook.step(min(steps, math.ceil((index + 1) / pipe.scheduler.order)), steps)
        return kwargs

    return on_step_end


def _refuse_infinite(values: torch.Tensor, what: str) -> None:
    if not bool(torch.isfinite(values).all()):
        raise UnusablePicture(f"{what} are not finite numbers")
