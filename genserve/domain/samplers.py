"""Noise schedulers by the names that users of other tools type.

One table for every dialect and every family. The canonical names are lower case with underscores.
"Scheduler" here always means the noise scheduler, as in diffusers; a name may also carry how the
noise levels are spaced ("DPM++ 2M Karras"), which is the separate option `sigmas`.

What each canonical name is in diffusers stands in `pipelines/schedulers.py`.
"""

import re
from dataclasses import dataclass
from typing import Literal

Sigmas = Literal["karras", "exponential", "beta"]
"""How noise levels are spaced; absent: as the model's own scheduler does."""

SIGMAS: tuple[Sigmas, ...] = ("karras", "exponential", "beta")

WITHOUT_SIGMAS = frozenset({"ddim", "ddpm", "deis", "lcm", "pndm"})
"""Schedulers whose levels cannot be spaced: they walk the training's own timesteps. (diffusers'
DEIS can be asked to, but then its last step does nothing.)"""

_NAMES: dict[str, tuple[str, ...]] = {
    "dpmpp_2m": (
        "dpm++ 2m",
        "dpm++2m",
        "dpm solver++",
        "dpmsolver",
        "dpm solver",
        "dpm solver multistep",
        "dpmsolvermultistep",
        "k dpmpp 2m",
    ),
    "dpmpp_2m_sde": ("dpm++ 2m sde", "dpmpp 2m sde gpu", "k dpmpp 2m sde"),
    "dpmpp_3m_sde": ("dpm++ 3m sde", "dpmpp 3m sde gpu", "k dpmpp 3m sde"),
    "dpmpp_sde": (
        "dpm++ sde",
        "dpmpp sde gpu",
        "dpm solver singlestep",
        "dpmsolversinglestep",
        "dpmsolversde",
        "dpm solver sde",
        "k dpmpp sde",
    ),
    "ddim": (),
    "ddpm": (),
    "deis": ("deismultistep", "deis multistep"),
    "dpm2": ("k dpm 2", "dpm 2", "kdpm2", "kdpm2discrete", "k dpm2"),
    "dpm2_a": (
        "dpm2 a",
        "dpm 2 a",
        "dpm 2 ancestral",
        "dpm2 ancestral",
        "k dpm 2 a",
        "k dpm 2 ancestral",
        "kdpm2ancestral",
        "kdpm2ancestraldiscrete",
        "kdpm2 ancestral",
    ),
    "euler": (
        "k euler",
        "eulerdiscrete",
        "euler discrete",
        "flow euler",
        "flow match euler",
        "flowmatcheulerdiscrete",
        "simple",
    ),
    "euler_a": ("euler ancestral", "k euler a", "k euler ancestral", "eulerancestraldiscrete"),
    "heun": (
        "k heun",
        "heundiscrete",
        "heun discrete",
        "flow heun",
        "flow match heun",
        "flowmatchheundiscrete",
    ),
    "lcm": (),
    "lms": ("k lms", "lmsdiscrete", "lms discrete"),
    "pndm": ("plms",),
    "unipc": ("uni pc", "unipcmultistep", "uni pc bh2"),
}
"""Canonical name → what else it is called: in seed 003 and diffusers (a class name loses its
"Scheduler"), in A1111, ComfyUI, k-diffusion and NovelAI. Compared folded, see `_folded`."""

CANONICAL = tuple(_NAMES)
"""Every canonical name."""


A1111_NAMES = {
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "deis": "DEIS",
    "dpm2": "DPM2",
    "dpm2_a": "DPM2 a",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "lcm": "LCM",
    "lms": "LMS",
    "pndm": "PLMS",
    "unipc": "UniPC",
}
"""What A1111 and Forge write into pictures, and read there."""


def _folded(name: str) -> str:
    """Lower case, and one space for what stands between words: `K-DPM_2` is `k dpm 2`."""
    return re.sub(r"[\s_\-]+", " ", name.strip().lower()).strip()


ALIASES: dict[str, str] = {
    _folded(alias): canonical
    for canonical, aliases in _NAMES.items()
    for alias in (canonical, *aliases)
}


@dataclass(frozen=True, slots=True)
class Sampler:
    """A scheduler's canonical name, and the spacing of noise levels that its name carried."""

    scheduler: str
    sigmas: Sigmas | None = None


def read_sampler(name: str) -> Sampler:
    """What a name means: "DPM++ 2M Karras" is dpmpp_2m on karras levels.

    A name that no alias knows is itself, folded, and never raises: the catalogue refuses it.
    """
    folded = _folded(name)
    spaced, _, last = folded.rpartition(" ")
    sigmas = next((spacing for spacing in SIGMAS if spaced and spacing == last), None)
    if sigmas is not None:
        folded = spaced
    folded = folded.removesuffix(" scheduler")
    found = ALIASES.get(folded) or ALIASES.get(folded.removesuffix("scheduler"))
    return Sampler(found or folded.replace(" ", "_"), sigmas)


def canonical_scheduler(name: str) -> str:
    """The canonical name of a scheduler alone; an unknown name, folded, is its own."""
    return read_sampler(name).scheduler
