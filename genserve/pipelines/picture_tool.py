"""What makes a picture from a picture without a prompt: control maps and upscalers.

They are models like any other to the rest of the house (tasks, queue, memory); a `Tool` is what
differs between them.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from genserve.domain.model import ModelSpec, Offload
from genserve.domain.request import GenerationRequest, ImageRole
from genserve.pipelines.base import DeviceKind, Hook, Stage
from genserve.pipelines.shelf import Shelf


class Tool(Protocol):
    """One way to make a picture from a picture."""

    def load(self, spec: ModelSpec, device: DeviceKind, shelf: Shelf, user: object) -> None:
        """Read what is needed; networks are taken from the shelf for `user`. As `Pipeline.load`."""
        ...

    def apply(self, image: Image.Image, request: GenerationRequest, hook: Hook) -> Image.Image:
        """An RGB picture of `request.width` x `request.height` pixels made from an RGB picture."""
        ...


class PictureTool:
    """A tool as a `Pipeline`."""

    distilled_guidance = False

    def __init__(self, tool: Tool) -> None:
        self._tool: Tool | None = tool
        self._shelf: Shelf | None = None

    def load(self, spec: ModelSpec, device: DeviceKind, shelf: Shelf) -> None:
        """See `Pipeline.load`."""
        self._shelf = shelf
        self._loaded_tool().load(spec, device, shelf, self)

    def parts(self) -> Mapping[str, Any]:
        """Nothing that a LoRA could change."""
        return {}

    def lacking(self, request: GenerationRequest) -> Mapping[Path, Callable[[], object]]:
        """Nothing."""
        return {}

    def generate(
        self,
        request: GenerationRequest,
        seed: int,
        inputs: Mapping[ImageRole, Image.Image],
        hook: Hook,
    ) -> Image.Image:
        """The picture made from the one input, whatever its role. The seed changes nothing."""
        (image,) = inputs.values()
        hook.stage(Stage.PROCESS)
        return self._loaded_tool().apply(image, request, hook)

    def low_memory(self) -> AbstractContextManager[None] | None:
        """There is no VAE to tile; what is large is worked on in tiles anyway."""
        return None

    def offloaded(self, how: Offload) -> AbstractContextManager[None] | None:
        """The networks are too small for that."""
        return None

    def size_bytes(self) -> int:
        """See `Pipeline.size_bytes`."""
        return self._shelf.alone_bytes(self) if self._shelf else 0

    def unload(self) -> None:
        """See `Pipeline.unload`."""
        self._tool = None
        if self._shelf is not None:
            self._shelf.give_back(self)

    def _loaded_tool(self) -> Tool:
        if self._tool is None:
            raise LookupError("it was unloaded")
        return self._tool
