"""What a family of models must offer, and what it may say and raise while it draws."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Literal, Protocol

from PIL import Image

from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest, ImageRole

DeviceKind = Literal["cpu", "cuda"]


class Cancelled(Exception):
    """Raised out of the hook into the recipe: stop now, nobody wants the picture."""


class UnusablePicture(Exception):
    """What was drawn must not be delivered; `reason` is a short text of ours."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class BrokenModel(Exception):
    """The model's folder cannot be loaded; `reason` is a short text of ours, without paths."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Stage(StrEnum):
    """The parts of the work on one picture, as they are timed."""

    TEXT = "text"
    INPUT = "input"
    DENOISE = "denoise"
    DECODE = "decode"
    ENCODE = "encode"
    STORE = "store"


class Hook(Protocol):
    """How a recipe tells how far it is, and learns that it is to stop. May raise `Cancelled`."""

    attempt: int
    """Counts from 1."""

    def stage(self, stage: Stage) -> None:
        """The stage begins."""
        ...

    def step(self, done: int, total: int) -> None:
        """So many of the picture's steps are done."""
        ...


class Pipeline(Protocol):
    """One loaded model. Made without arguments by the registry, used by one thread."""

    distilled_guidance: bool
    """Guidance is an input of the network (as in FLUX.1 [dev]), not classifier-free guidance."""

    def load(self, spec: ModelSpec, device: DeviceKind, dtype: str) -> None:
        """Read the weights and put them on the device. Raises `BrokenModel`."""
        ...

    def generate(
        self,
        request: GenerationRequest,
        seed: int,
        inputs: Mapping[ImageRole, Image.Image],
        hook: Hook,
    ) -> Image.Image:
        """Draw one picture of `request.width` x `request.height` pixels.

        `request` is complete; `inputs` are RGB and of that size. Leaves no trace: the next picture
        is what it would have been without this one, also when this one was cancelled. Raises
        `Cancelled`, `UnusablePicture`, `GenServeError`, or what the libraries raise.
        """
        ...

    def low_memory(self) -> AbstractContextManager[None]:
        """Draw with less memory, and a little differently, while it is open: tile the VAE."""
        ...

    def size_bytes(self) -> int:
        """What it takes of the device's memory while it is loaded."""
        ...

    def unload(self) -> None:
        """Give the memory back."""
        ...
