"""Enlarging by Lanczos' filter: no network, nothing invented."""

from PIL import Image, ImageOps

from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest
from genserve.pipelines.base import DeviceKind, Hook
from genserve.pipelines.picture_tool import PictureTool
from genserve.pipelines.shelf import Shelf


def pipeline() -> PictureTool:
    """The family `lanczos`; it needs no weights."""
    return PictureTool(Lanczos())


class Lanczos:
    """Soft, but true to the picture."""

    def load(self, spec: ModelSpec, device: DeviceKind, shelf: Shelf, user: object) -> None:
        """There is nothing to read."""

    def apply(self, image: Image.Image, request: GenerationRequest, hook: Hook) -> Image.Image:
        """At the size asked for; cropped around the middle where that has another shape."""
        large = fitted(image, request)
        hook.step(1, 1)
        return large


def fitted(image: Image.Image, request: GenerationRequest) -> Image.Image:
    """At exactly `request.width` x `request.height`, never stretched."""
    size = (request.width or image.width, request.height or image.height)
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
