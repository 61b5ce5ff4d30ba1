"""Control maps of edges, by OpenCV (Canny, 1986): white lines on black, as FLUX.1 Canny expects."""

import cv2
import numpy as np
from PIL import Image

from genserve.domain.model import ModelSpec
from genserve.domain.request import Control, GenerationRequest, ImageRole
from genserve.pipelines.base import DeviceKind, Hook
from genserve.pipelines.picture_tool import PictureTool
from genserve.pipelines.shelf import Shelf


def pipeline() -> PictureTool:
    """The family `canny`; it needs no weights."""
    return PictureTool(Canny())


class Canny:
    """Edges where a colour changes enough.

    The thresholds are the request's and never guessed from the picture: two maps can be compared,
    and a picture with too little contrast gives a map that is visibly empty.
    """

    def load(self, spec: ModelSpec, device: DeviceKind, shelf: Shelf, user: object) -> None:
        """There is nothing to read."""

    def apply(self, image: Image.Image, request: GenerationRequest, hook: Hook) -> Image.Image:
        """The edges, where they are. Works on colours: equally bright ones have an edge too."""
        picture = request.image(ImageRole.CONTROL)
        control = (picture.control if picture else None) or Control()
        edges = cv2.Canny(np.asarray(image), control.low_threshold, control.high_threshold)
        hook.step(1, 1)
        return Image.fromarray(edges).convert("RGB")
