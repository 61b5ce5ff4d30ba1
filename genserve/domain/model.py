"""What a model is and can do: data from config.yaml and the model's folder, never code."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from genserve.domain.request import ControlType, Mode, Value
from genserve.domain.samplers import Sigmas

Offload = Literal["none", "model", "group", "sequential"]
"""Where weights wait on a GPU's host: nowhere; each network; each block; each layer."""
Quantization = Literal["none", "fp8", "nf4"]
"""How the large networks' weights are kept in memory."""


class Capabilities(Value):
    """What a model can do. Sizes in pixels."""

    modes: tuple[Mode, ...] = (Mode.TEXT2IMG,)
    control_types: tuple[ControlType, ...] = ()
    control_weights: bool = True
    """Whether it can follow a control picture more or less, or for a part of the steps."""
    schedulers: tuple[str, ...] = ("euler",)
    sigmas: tuple[Sigmas, ...] = ()
    """How noise levels can be spaced other than the model's own way."""
    clip_skip: bool = False
    """Whether the layer of the text encoder that is read can be chosen."""
    vaes: bool = False
    """Whether a request may name another VAE."""
    loras: bool = False
    lora_base: str | None = None
    """The family whose LoRAs it takes; None: of any."""
    negative_prompt: bool = False
    multiple_of: Annotated[int, Field(ge=1)] = 16
    max_pixels: int = 4_194_304


class Defaults(Value):
    """What a request gets where it says nothing."""

    width: int = 1024
    height: int = 1024
    steps: int = 50
    guidance: float = 3.5
    strength: float = 0.8
    scheduler: str = "euler"


class ModelSpec(Value):
    """One entry of the catalogue.

    `folder` holds the weights. `stand_in` is the id of a small shipped model that draws in its
    place while no real model is installed. `upscale` allows drawing at `native_pixels` in the
    nearest of `buckets` (width, height) and enlarging.

    `base` is the folder of the model that this one adds to (a Flux ControlNet, Redux), `controls`
    are the folders of ControlNets by what they follow, `vae` replaces the folder's own: a folder
    or a single file. `vaes` and `embeddings` (trained words) are the files that a request may name.
    `dtype`, `quantization` and `offload` say how it is kept in memory, `vae_tiling` that pictures
    are always decoded in tiles. `stamp` changes whenever one
    of these files does, so that what is in memory is told from what is on disk now.
    """

    id: str
    family: str
    folder: Path
    base: Path | None = None
    controls: dict[ControlType, Path] = {}
    vae: Path | None = None
    vaes: dict[str, Path] = {}
    embeddings: dict[str, Path] = {}
    description: str = ""
    capabilities: Capabilities = Capabilities()
    defaults: Defaults = Defaults()
    stand_in: str | None = None
    upscale: bool = False
    native_pixels: int | None = None
    buckets: tuple[tuple[int, int], ...] = ()
    dtype: str = "auto"
    quantization: Quantization = "none"
    offload: Offload = "none"
    vae_tiling: bool = False
    options: dict[str, str | int | float | bool] = {}
    stamp: str = ""
