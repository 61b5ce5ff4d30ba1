"""Tiny Stable Diffusion models in memory, and requests for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageStat

from genserve.domain.model import Capabilities, ModelSpec
from genserve.domain.request import Control, FileRef, GenerationRequest, ImageRole, InputImage
from genserve.pipelines import registry
from genserve.pipelines.base import Pipeline
from genserve.pipelines.shelf import Shelf
from tests.pipelines import tiny_diffusion as tiny
from tests.pipelines.conftest import Watcher

SIDE = 32
"""Pixels: what they show does not matter, so they may be few."""
BUILDERS: dict[str, Callable[[Path], Path]] = {
    "sd15": tiny.build_sd15,
    "sdxl": tiny.build_sdxl,
    "sd3": tiny.build_sd3,
}


def spec_of(folder: Path, family: str, **changes: Any) -> ModelSpec:
    values = {
        "id": family,
        "family": family,
        "folder": folder,
        "capabilities": Capabilities(multiple_of=8),
    }
    return ModelSpec.model_validate(values | changes)


def loaded(folder: Path, family: str, *, shelf: Shelf | None = None, **changes: Any) -> Pipeline:
    """A recipe with that model, on the CPU."""
    pipeline = registry.make(family)
    pipeline.load(spec_of(folder, family, **changes), "cpu", shelf or Shelf())
    return pipeline


def asked(**changes: Any) -> GenerationRequest:
    values = {
        "model": "x",
        "prompt": "a red cat",
        "negative_prompt": "ugly",
        "width": SIDE,
        "height": SIDE,
        "steps": 4,
        "guidance": 5.0,
        "seed": 1,
        "scheduler": "euler",
        "strength": 0.5,
    }
    return GenerationRequest.model_validate(values | changes)


def draw(
    pipeline: Pipeline,
    hook: Watcher | None = None,
    pictures: dict[ImageRole, Image.Image] | None = None,
    **changes: Any,
) -> Image.Image:
    request = asked(**changes)
    return pipeline.generate(request, request.seed or 0, pictures or {}, hook or Watcher())


def control(**values: Any) -> tuple[InputImage, ...]:
    """A request's control picture, followed as the values say."""
    file = FileRef(sha256="0" * 64, media_type="image/png", width=SIDE, height=SIDE, size_bytes=1)
    return (InputImage(file=file, role=ImageRole.CONTROL, control=Control(**values)),)


def colourful() -> Image.Image:
    """Some picture to start from."""
    ramp = Image.radial_gradient("L").resize((SIDE, SIDE))
    return Image.merge("RGB", (ramp, ImageChops.invert(ramp), ramp.rotate(90)))


def middle() -> Image.Image:
    """A mask of the middle."""
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (8, 8, 24, 24))
    return mask


def difference(one: Image.Image, other: Image.Image) -> float:
    return sum(ImageStat.Stat(ImageChops.difference(one, other)).mean)
