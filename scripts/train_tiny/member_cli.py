"""Which members there are besides tiny-flux-dev, and how the command line runs them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from .judges import train_judges
from .members import FLUX_MEMBERS, MemberRun, train_flux_member
from .sd_member import SD_CONTROLS, train_sd15, train_sd_control
from .sdxl_member import train_sdxl
from .style_member import train_style_loras

_FLUX = Path("models/tiny-flux-dev")
_SD = Path("models/tiny-sd15")


@dataclass(frozen=True)
class Entry:
    """A member: what trains it, where it is written and what it adds to, unless told otherwise."""

    train: Callable[[MemberRun], None]
    out: Path
    base: Path


def _folder(name: str) -> Path:
    return Path("models") / f"tiny-{name}"


MEMBERS: Mapping[str, Entry] = {
    **{
        name: Entry(partial(train_flux_member, member=member), _folder(name), _FLUX)
        for name, member in FLUX_MEMBERS.items()
    },
    "judges": Entry(train_judges, Path("tests/semantic/judges"), _FLUX),
    "loras": Entry(train_style_loras, Path("loras"), _FLUX),
    # From scratch: it adds to nothing.
    "sd15": Entry(train_sd15, _SD, _SD),
    "sdxl": Entry(train_sdxl, _folder("sdxl"), _SD),
    **{
        name: Entry(partial(train_sd_control, member=member), _folder(name), _SD)
        for name, member in SD_CONTROLS.items()
    },
}


def train_member(values: argparse.Namespace, device: torch.device) -> None:
    """Runs a member's stages as the command line says, see `cli.parse_arguments`."""
    entry = MEMBERS[values.model]
    entry.train(
        MemberRun(
            name=values.model,
            seed=values.seed,
            folder=values.workdir / values.model,
            shared=values.workdir,
            out=values.out or entry.out,
            base=values.base or entry.base,
            device=device,
            last_stage=values.stage,
            steps_scale=values.steps_scale,
            whole=values.whole,
        )
    )
