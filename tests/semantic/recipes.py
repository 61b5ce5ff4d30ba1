"""GenServe's own recipes as painters of what `train_tiny` asks for and measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genserve.domain.lora import LoraSource
from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest, ImageRole, LoraRef, Mode
from genserve.pipelines import registry
from genserve.pipelines.base import Pipeline, Stage
from genserve.pipelines.shelf import Shelf
from genserve.pipelines.wardrobe import Wardrobe
from train_tiny.canvas import Pixels
from train_tiny.painting import Order
from train_tiny.style_figures import source_of

FILE = {"sha256": "0" * 64, "media_type": "image/png", "width": 1, "height": 1, "size_bytes": 1}
_ROLES: Mapping[Mode, ImageRole] = {
    Mode.CONTROLNET: ImageRole.CONTROL,
    Mode.REDUX: ImageRole.REFERENCE,
    Mode.IMG2IMG: ImageRole.INIT,
    Mode.FILL: ImageRole.INIT,
}


class Silent:
    """A hook that listens to nothing."""

    attempt = 1

    def stage(self, stage: Stage) -> None:
        pass

    def step(self, done: int, total: int) -> None:
        pass

    def preview(self, make: Callable[[], Image.Image]) -> None:
        pass


class Recipe:
    """One model, loaded as the server loads it. Draws order by order."""

    def __init__(self, spec: ModelSpec, shelf: Shelf, wardrobe: Wardrobe) -> None:
        self.spec = spec
        self._wardrobe = wardrobe
        self.pipeline: Pipeline = registry.make(spec.family)
        self.pipeline.load(spec, "cpu", shelf)

    def painter(
        self, mode: Mode, control: str | None = None, **changes: Any
    ) -> Callable[[Sequence[Order]], list[Pixels]]:
        """Draws in that mode; `control` is what a control picture is, `changes` are to requests."""
        return lambda orders: [self.paint(order, mode, control, **changes) for order in orders]

    def paint(self, order: Order, mode: Mode, control: str | None = None, **changes: Any) -> Pixels:
        width, height = order.size
        inputs = _inputs(order, mode)
        values: dict[str, Any] = {
            "model": self.spec.id,
            "mode": mode,
            "prompt": order.prompt,
            "negative_prompt": order.negative,
            "width": width,
            "height": height,
            "steps": 20,
            "guidance": 3.5,
            "scheduler": self.spec.defaults.scheduler,
            "strength": 1.0,
            "seed": order.seed,
            "images": [_named(role, control) for role in inputs],
        }
        request = GenerationRequest.model_validate(values | order.options | changes)
        return np.asarray(self.pipeline.generate(request, order.seed, inputs, Silent()))

    def dressed_painter(
        self, loras: Path
    ) -> Callable[[Sequence[Order], Mapping[str, float]], list[Pixels]]:
        """Draws from text while LoRAs of that folder are worn, each with its weight."""

        def paint(orders: Sequence[Order], weights: Mapping[str, float]) -> list[Pixels]:
            worn = [LoraRef(name=name, weight=weight) for name, weight in weights.items()]
            files: dict[str, LoraSource] = {
                name: source_of(loras / f"{name}.safetensors") for name in weights
            }
            parts = self.pipeline.parts()
            self._wardrobe.wear(parts, worn, files)
            try:
                return self.painter(Mode.TEXT2IMG)(orders)
            finally:
                self._wardrobe.wear(parts)

        return paint


def _inputs(order: Order, mode: Mode) -> dict[ImageRole, Image.Image]:
    if order.picture is None:
        return {}
    given = {_ROLES[mode]: Image.fromarray(order.picture)}
    if order.mask is not None:
        given[ImageRole.MASK] = Image.fromarray(order.mask)
    return given


def _named(role: ImageRole, control: str | None) -> dict[str, Any]:
    named: dict[str, Any] = {"file": FILE, "role": role}
    return named | {"control": {"type": control}} if role is ImageRole.CONTROL else named
