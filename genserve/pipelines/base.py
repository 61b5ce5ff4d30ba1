"""What a family of models must offer, and what it may say and raise while it draws."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

from PIL import Image

from genserve.domain.model import ModelSpec, Offload
from genserve.domain.request import GenerationRequest, ImageRole
from genserve.pipelines.shelf import Shelf

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
    LORAS = "loras"
    DENOISE = "denoise"
    PREVIEW = "preview"
    PROCESS = "process"
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

    def preview(self, make: Callable[[], Image.Image]) -> None:
        """What the next `step` may show: `make` gives a small RGB picture, if it is called."""
        ...


class Pipeline(Protocol):
    """One loaded model. Made without arguments by the registry, used by one thread."""

    distilled_guidance: bool
    """Guidance is an input of the network (as in FLUX.1 [dev]), not classifier-free guidance."""

    def load(self, spec: ModelSpec, device: DeviceKind, shelf: Shelf) -> None:
        """Read the weights and put them on the device, as the spec says.

        What other models may hold too is taken from the shelf. Raises `BrokenModel`, or what the
        libraries raise; then `unload` is called.
        """
        ...

    def parts(self) -> Mapping[str, Any]:
        """The networks by the names of diffusers: transformer, unet, text_encoder, vae …

        One that is on the shelf may be another model's part too.
        """
        ...

    def lacking(self, request: GenerationRequest) -> Mapping[Path, Callable[[], object]]:
        """What the request needs beside what `load` has read: a ControlNet.

        Its folder, and what reads it, to stay until `unload`; nothing where all is in memory.
        `generate` would read it too: this is for who makes room first. Reading raises as `load`.
        """
        ...

    def generate(
        self,
        request: GenerationRequest,
        seed: int,
        inputs: Mapping[ImageRole, Image.Image],
        hook: Hook,
    ) -> Image.Image:
        """Draw one picture of `request.width` x `request.height` pixels.

        `request` is complete. `inputs` are of that size: INIT and CONTROL in RGB, MASK in L (white
        is to be drawn anew); REFERENCE is in RGB and of its own size. Leaves no trace: the next
        picture is what it would have been without this one, also when this one was cancelled.
        Raises `Cancelled`, `UnusablePicture`, `GenServeError`, or what the libraries raise.
        """
        ...

    def low_memory(self) -> AbstractContextManager[None] | None:
        """Draw with less memory, and a little differently, while it is open: tile the VAE.

        None: there is nothing to tile.
        """
        ...

    def offloaded(self, how: Offload) -> AbstractContextManager[None] | None:
        """Draw with less of the device's memory, and slower, while it is open.

        The weights wait outside of it. None: no use here, as on a CPU, or where as much waits
        outside already.
        """
        ...

    def size_bytes(self) -> int:
        """What this pipeline alone holds of the device's memory: nothing that it shares."""
        ...

    def unload(self) -> None:
        """Give the memory back, and to the shelf what was taken. Also after a failed `load`."""
        ...


def as_configured(pipeline: Pipeline, spec: ModelSpec) -> AbstractContextManager[None]:
    """While it is open, the pipeline draws as the spec says: in tiles, where it says `vae_tiling`.

    What else the spec says was done when the model was read.
    """
    tiled = pipeline.low_memory() if spec.vae_tiling else None
    return tiled or nullcontext()
