"""What a model is and can do: data from config.yaml and the model's folder, never code."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from genserve.domain.request import ControlType, Mode, Value


class Capabilities(Value):
    """What a model can do. Sizes in pixels."""

    modes: tuple[Mode, ...] = (Mode.TEXT2IMG,)
    control_types: tuple[ControlType, ...] = ()
    schedulers: tuple[str, ...] = ("euler",)
    loras: bool = False
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
    """

    id: str
    family: str
    folder: Path
    description: str = ""
    capabilities: Capabilities = Capabilities()
    defaults: Defaults = Defaults()
    stand_in: str | None = None
    upscale: bool = False
    native_pixels: int | None = None
    buckets: tuple[tuple[int, int], ...] = ()
    dtype: str = "auto"
    options: dict[str, str | int | float | bool] = {}
