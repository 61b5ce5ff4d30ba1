"""Enlarging by a network (ESRGAN, SwinIR, DAT … whatever the spandrel package recognises).

A network enlarges by a factor of its own. The picture goes through it until it is as large as was
asked for, and is then brought to exactly that size by Lanczos' filter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from safetensors.torch import load_file

from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest
from genserve.pipelines import tiles
from genserve.pipelines.base import BrokenModel, DeviceKind, Hook
from genserve.pipelines.lanczos import fitted
from genserve.pipelines.picture_tool import PictureTool
from genserve.pipelines.shelf import Shelf

MOST_PASSES = 3
"""4 x 4 x 4: beyond that nothing is left of the picture that was given."""
_ENOUGH = 2
"""How much larger than asked for a pass may get on a side: more would be thrown away again."""

Size = tuple[int, int]
"""Width, height."""


class Network(Protocol):
    """An upscaler as spandrel describes it (`ImageModelDescriptor`)."""

    scale: int
    input_channels: int
    output_channels: int
    model: torch.nn.Module

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """From 1 x channels x height x width in 0…1 to the same, `scale` times as large."""
        ...


Read = Callable[[Path, DeviceKind], Network]


def read_by_spandrel(weights: Path, device: DeviceKind) -> Network:
    """The network in a .safetensors file, whichever it is. Raises `BrokenModel`."""
    try:
        import spandrel
    except ImportError:
        raise BrokenModel(
            "it needs the package spandrel: pip install 'genserve[upscale]'"
        ) from None
    except RuntimeError:  # from torchvision, which spandrel needs, when torch is another build
        raise BrokenModel("spandrel's torchvision does not fit the installed torch") from None
    try:
        state = spandrel.canonicalize_state_dict(load_file(weights))
        network: Any = spandrel.ModelLoader(device).load_from_state_dict(state)
    except spandrel.UnsupportedModelError:
        raise BrokenModel(f"{weights.name} is no upscaler that spandrel knows") from None
    if not isinstance(network, spandrel.ImageModelDescriptor):
        raise BrokenModel(f"{weights.name} does not make a picture from a picture alone")
    upscaler: Network = network.eval()
    return upscaler


def pipeline() -> PictureTool:
    """The family `spandrel`."""
    return PictureTool(SuperResolution(read_by_spandrel))


@dataclass(slots=True)
class SuperResolution:
    """An upscaling network. `read` is where it comes from."""

    read: Read
    network: Network | None = None

    def load(self, spec: ModelSpec, device: DeviceKind, shelf: Shelf, user: object) -> None:
        """Read the one .safetensors file of the folder."""
        weights = sorted(spec.folder.glob("*.safetensors"))
        if len(weights) != 1:
            raise BrokenModel(f"{spec.folder.name} must hold one .safetensors file")
        form = f"{device} upscaler"
        shelved = shelf.take(
            user, weights[0], form, lambda: _Shelved(self.read(weights[0], device))
        )
        self.network = shelved.network
        if (self.network.input_channels, self.network.output_channels) != (3, 3):
            raise BrokenModel(f"{weights[0].name} does not take and make RGB pictures")

    @torch.no_grad()
    def apply(self, image: Image.Image, request: GenerationRequest, hook: Hook) -> Image.Image:
        """At the size asked for; each tile counts as a step."""
        network = self.network
        if network is None:
            raise LookupError("nothing was loaded")
        asked = (request.width or image.width, request.height or image.height)
        sizes = passes(image.size, asked, network.scale)
        total = sum(len(list(tiles.tiles_of(height, width))) for width, height in sizes)
        done = 0

        def after_tile() -> None:
            nonlocal done
            done += 1
            hook.step(done, total)

        for size in sizes:
            smaller = image.resize(size, Image.Resampling.LANCZOS)
            pixels = tiles.run(self._enlarged, _bytes_of(smaller), network.scale, after_tile)
            image = _image_of(pixels)
        return fitted(image, request)

    def _enlarged(self, pixels: torch.Tensor) -> torch.Tensor:
        assert self.network is not None
        weight = next(self.network.model.parameters())
        return self.network(pixels.to(weight.device, weight.dtype)).float()


class _Shelved(torch.nn.Module):
    """A network as the shelf counts it: by its weights."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.model = network.model
        self.network = network


def passes(given: Size, asked: Size, scale: int) -> list[Size]:
    """The size of what goes into the network, for each time that it goes through.

    At least once: that is what was asked for. Before it would get more than twice as large as
    needed it is reduced, so that time and memory stay in proportion to the answer.
    """
    sizes: list[Size] = []
    size = given
    while not sizes or (
        scale > 1 and len(sizes) < MOST_PASSES and (size[0] < asked[0] or size[1] < asked[1])
    ):
        excess = max(min(size[axis] * scale / (asked[axis] * _ENOUGH) for axis in (0, 1)), 1.0)
        sizes.append((_reduced(size[0], excess), _reduced(size[1], excess)))
        size = (sizes[-1][0] * scale, sizes[-1][1] * scale)
    return sizes


def _reduced(side: int, excess: float) -> int:
    return max(1, round(side / excess))


def _bytes_of(image: Image.Image) -> torch.Tensor:
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, 3).permute(2, 0, 1)


def _image_of(pixels: torch.Tensor) -> Image.Image:
    _, height, width = pixels.shape
    return Image.frombytes(
        "RGB", (width, height), pixels.permute(1, 2, 0).contiguous().numpy().tobytes()
    )
