"""Control maps of depth, by a depth-estimation model of transformers (as Depth Anything V2).

What is near is bright, as FLUX.1 Depth and the ControlNets for Stable Diffusion expect it.
"""

from typing import Any

import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModelForDepthEstimation

from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest
from genserve.pipelines import networks
from genserve.pipelines.base import DeviceKind, Hook
from genserve.pipelines.picture_tool import PictureTool
from genserve.pipelines.shelf import Shelf

_METRIC_TYPES = frozenset({"depth_pro", "zoedepth"})
"""Models whose figures are metres, which grow with distance; others' grow with nearness."""
_NEAREST_M = 1e-3


def pipeline() -> PictureTool:
    """The family `depth`."""
    return PictureTool(Depth())


class Depth:
    """Near and far; not metres."""

    def __init__(self) -> None:
        self._network: Any = None
        self._processor: Any = None

    def load(self, spec: ModelSpec, device: DeviceKind, shelf: Shelf, user: object) -> None:
        """Read the model and its image processor."""
        self._network = networks.take(
            AutoModelForDepthEstimation, spec.folder, spec, device, shelf, user
        )
        self._processor = networks.processor(AutoImageProcessor, spec.folder)

    @torch.no_grad()
    def apply(self, image: Image.Image, request: GenerationRequest, hook: Hook) -> Image.Image:
        """The nearest point white, the farthest black."""
        pixels = networks.pixels_for(self._network, self._processor, image)
        values = self._network(pixel_values=pixels).predicted_depth.float()
        nearness = 1 / values.clamp(min=_NEAREST_M) if self._is_metric() else values
        size = (image.height, image.width)
        nearness = functional.interpolate(nearness[:, None], size, mode="bicubic")[0, 0]
        hook.step(1, 1)
        return Image.fromarray(_levels(nearness).cpu().numpy()).convert("RGB")

    def _is_metric(self) -> bool:
        config = self._network.config
        kind = getattr(config, "depth_estimation_type", "relative")
        return kind == "metric" or config.model_type in _METRIC_TYPES


def _levels(values: torch.Tensor) -> torch.Tensor:
    """Stretched to 0…255; black where every value is the same."""
    low, high = values.min(), values.max()
    stretched = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    return (stretched * 255).round().to(torch.uint8)
