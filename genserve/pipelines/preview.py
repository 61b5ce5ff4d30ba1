"""What a picture looks like while it is drawn: small, cheap, and roughly right.

Between two steps there are only latents, and decoding them would cost as much as a step. But a
latent pixel and its neighbours say how their patch of the picture is coloured, nearly as a linear
function. Its weights belong to the VAE, so they are fitted to the VAE that is loaded (least squares
over a few generated pictures, once): a table from elsewhere would know neither the tiny family nor
tomorrow's models.

What is shown is not the noisy latents but where they are heading: along a sampler's path latents
are nearly linear in their noise, so two steps in a row say what is left when the noise is gone.
"""

import copy
import math
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers import AutoencoderTiny
from PIL import Image, ImageDraw
from torch.nn import functional

from genserve.domain.model import ModelSpec
from genserve.pipelines.base import BrokenModel, Hook

LONGEST_SIDE = 256
"""Pixels of a preview at most."""

_REACH = 3
"""A colour is a sum over 3 x 3 latent pixels: some VAEs spread colours over neighbours, and with
one pixel alone their previews look like noise."""
_FINER = 2
"""Preview pixels for each latent pixel, in either direction."""
_SAMPLES = 8
_SAMPLE_SIDE = 192
"""Pixels. Eight pictures of 24 x 24 latent pixels: 4608 equations for at most 289 unknowns."""
_LEAVES = 60
_RIDGE = 1e-3
"""Keeps channels that say nothing about colour near zero. Relative to a channel's mean square."""
_SAME_NOISE = 1e-6
_REMEMBERED = 3
"""Steps: a scheduler of order 2 takes two at each level of noise."""

Unpack = Callable[[torch.Tensor], torch.Tensor]
"""From a pipeline's latents to what its VAE decodes: 1 x channels x height x width, unscaled."""


class Previewer:
    """Shows one picture while it is drawn. A recipe calls `saw` after each step."""

    def __init__(self, vae: Any, unpack: Unpack) -> None:
        self._vae = vae
        self._unpack = unpack
        self._scheduler: Any = None
        self._steps: deque[tuple[int, torch.Tensor]] = deque(maxlen=_REMEMBERED)

    def saw(self, hook: Hook, scheduler: Any, index: int, latents: torch.Tensor) -> None:
        """These are the latents after the scheduler's step `index`, counted from 0.

        Call it before `hook.step`, which sends the preview along. Nothing is computed yet: asking a
        GPU for a number would make it wait after each step.
        """
        self._scheduler = scheduler
        self._steps.append((index, latents))
        if self._vae in _FITTED or self._vae in _DECODERS or not _comes_and_goes(self._vae):
            hook.preview(self.picture)

    @torch.no_grad()
    def picture(self) -> Image.Image:
        """What the picture will be, as far as the steps until now tell."""
        latents = self._unpack(self._heading())
        decoder = _DECODERS.get(self._vae)
        if decoder is not None:
            image = _decoded(decoder, self._vae, latents)
        else:
            image = projection_of(self._vae).picture(latents)
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        return image

    def _heading(self) -> torch.Tensor:
        """The latents without their noise, on a straight line through the last two levels of it."""
        latents, noise = self._scaled(*self._steps[-1])
        for step in reversed(list(self._steps)[:-1]):
            before, more = self._scaled(*step)
            if noise > 0 and abs(more - noise) > _SAME_NOISE:
                return latents - (latents - before) * (noise / (noise - more))
        return latents

    def _scaled(self, index: int, latents: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The picture with some noise added, and how much."""
        alpha, sigma = level_after(self._scheduler, index)
        return latents / alpha, sigma / alpha


def level_after(scheduler: Any, index: int) -> tuple[float, float]:
    """How latents are mixed after step `index`: alpha x picture + sigma x noise.

    Schedulers that count in sigmas mix with alpha 1, as flow matching does along its straight
    path; the DPM-Solver kind scales both; those without sigmas have alphas for each time step.
    """
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None:
        sigma = float(sigmas[min(index + 1, len(sigmas) - 1)])
        scaled = getattr(scheduler, "_sigma_to_alpha_sigma_t", None)
        if scaled is None or getattr(scheduler.config, "use_flow_sigmas", False):
            return 1.0, sigma
        alpha, mixed = scaled(torch.tensor(sigma))
        return float(alpha), float(mixed)
    steps = scheduler.timesteps
    if index + 1 >= len(steps):
        return 1.0, 0.0
    signal = float(scheduler.alphas_cumprod[int(steps[index + 1])])
    return math.sqrt(signal), math.sqrt(1 - signal)


class Projection:
    """Colours as a linear function of latents."""

    def __init__(self, weights: torch.Tensor) -> None:
        """`weights` are (3 x 3 x channels + 1) rows x (3 x 2 x 2) columns, on the CPU."""
        self._weights = weights

    def picture(self, latents: torch.Tensor) -> Image.Image:
        """Two by two pixels for each latent pixel of 1 x channels x height x width."""
        height, width = latents.shape[-2:]
        colours = (_surroundings(latents.detach().float().cpu()) @ self._weights).T
        finer = functional.pixel_shuffle(colours.reshape(1, -1, height, width), _FINER)
        return _image(finer[0].permute(1, 2, 0))


_FITTED: "WeakKeyDictionary[Any, Projection]" = WeakKeyDictionary()
_DECODERS: "WeakKeyDictionary[Any, Any]" = WeakKeyDictionary()
"""By VAE: its projection, and an AutoencoderTiny for its latents where one is installed."""


def use_decoder(vae: Any, spec: ModelSpec, read: Callable[[Any, Path], Any]) -> None:
    """Take the tiny decoder that the model's option `preview` names, a folder beside the model's.

    Its previews are sharper. `read` gives the network of a class in a folder, and raises
    `BrokenModel` where that is missing.
    """
    name = spec.options.get("preview")
    if name is None:
        return
    if str(name) != Path(str(name)).name:
        raise BrokenModel(f"its option preview must be the name of a folder, not {name}")
    _DECODERS[vae] = read(AutoencoderTiny, spec.folder.parent / str(name))


def _comes_and_goes(vae: Any) -> bool:
    """Whether its weights wait elsewhere while it is not used: no time to fit anything."""
    marks = ("_hf_hook", "_diffusers_hook")
    return any(hasattr(module, mark) for module in vae.modules() for mark in marks)


def projection_of(vae: Any) -> Projection:
    """The VAE's projection, fitted when it is asked for first and kept as long as the VAE is.

    The shelf holds VAEs of equal content once, so variants of one base share the work.
    """
    if vae not in _FITTED:
        _FITTED[vae] = fit(vae)
    return _FITTED[vae]


@torch.no_grad()
def fit(vae: Any) -> Projection:
    """Encode pictures, and find the weights that bring their colours back best."""
    weight = next(vae.parameters())
    # Some VAEs overflow in float16 (SDXL's does), and CPUs are slow with either half.
    halves = weight.dtype is torch.float16 or weight.device.type == "cpu"
    encoder = copy.deepcopy(vae).float() if halves and weight.dtype is not torch.float32 else vae
    dtype = next(encoder.parameters()).dtype
    rows, colours = [], []
    for number in range(_SAMPLES):
        pixels = _pixels(_leaves(random.Random(number)))
        latents = encoder.encode(pixels.to(weight.device, dtype)).latent_dist.mode()
        height, width = latents.shape[-2:]
        small = functional.interpolate(pixels, (height * _FINER, width * _FINER), mode="area")
        rows.append(_surroundings(latents.float().cpu()))
        colours.append(functional.pixel_unshuffle(small, _FINER)[0].flatten(1).T)
    return Projection(_least_squares(torch.cat(rows), torch.cat(colours)))


def _surroundings(latents: torch.Tensor) -> torch.Tensor:
    """For each latent pixel a row: itself with its neighbours, and a one."""
    edge = _REACH // 2
    padded = functional.pad(latents, (edge, edge, edge, edge), mode="replicate")
    rows = functional.unfold(padded, _REACH)[0].T
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)


def _least_squares(rows: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    known = rows.double()
    square = known.T @ known
    square += torch.diag(square.diagonal() * _RIDGE)
    weights: torch.Tensor = torch.linalg.solve(square, known.T @ colours.double())
    return weights.float()


def _leaves(chance: random.Random) -> Image.Image:
    """Discs of random size and colour over each other, some of them shaded.

    "Dead leaves" (Lee, Mumford, Huang: Occlusion models for natural images, 2001) have the edges
    and flat parts of photos and drawings alike.
    """

    def colour() -> tuple[int, int, int]:
        return (chance.randrange(256), chance.randrange(256), chance.randrange(256))

    image = Image.new("RGB", (_SAMPLE_SIDE, _SAMPLE_SIDE), colour())
    draw = ImageDraw.Draw(image)
    for _ in range(_LEAVES):
        # Radii by the inverse cube law that makes the picture look alike at every distance
        radius = 8 / math.sqrt(chance.uniform(0.008, 1))
        x, y = chance.uniform(0, _SAMPLE_SIDE), chance.uniform(0, _SAMPLE_SIDE)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour())
    shade = Image.linear_gradient("L").resize(image.size).rotate(chance.choice((0, 90, 180, 270)))
    dark = Image.new("RGB", image.size, "black")
    return Image.blend(image, Image.composite(image, dark, shade), 0.5)


def _pixels(image: Image.Image) -> torch.Tensor:
    """1 x 3 x height x width in -1…1."""
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    pixels = flat.view(image.height, image.width, 3).permute(2, 0, 1)[None]
    return pixels.float() / 127.5 - 1


def _decoded(tiny: Any, vae: Any, latents: torch.Tensor) -> Image.Image:
    """By a tiny decoder, which takes latents scaled as a pipeline has them."""
    scaled = (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
    own = scaled / tiny.config.scaling_factor + (getattr(tiny.config, "shift_factor", 0) or 0.0)
    weight = next(tiny.parameters())
    pixels = tiny.decode(own.to(weight.device, weight.dtype), return_dict=False)[0]
    return _image(pixels[0].float().cpu().permute(1, 2, 0))


def _image(colours: torch.Tensor) -> Image.Image:
    """From height x width x 3 in -1…1."""
    levels = ((colours.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    size = (levels.shape[1], levels.shape[0])
    return Image.frombytes("RGB", size, levels.contiguous().numpy().tobytes())
