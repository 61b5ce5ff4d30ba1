"""Full-size models made small: a recipe and diffusers' own pipeline draw the same picture."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest, ImageRole
from genserve.pipelines import full_size, peak_memory, registry, shrinking
from genserve.pipelines.base import BrokenModel, Stage
from genserve.pipelines.shelf import Shelf
from tests.pipelines.conftest import TINY, Watcher

SIDE = 64
FACTOR = 16
PICTURED = {ImageRole.MASK: "L"}
NAMES = [name for name in full_size.names() if name != "flux1-kontext-dev"]
"""Kontext looks at a megapixel of its reference, whatever is drawn: too slow here."""


def spec_of(name: str, root: Path, **changes: Any) -> ModelSpec:
    written = full_size.write(name, root, TINY, shrink=FACTOR)
    family = full_size.usual(name).family
    options: dict[str, Any] = {"random_weights": True}
    spec = ModelSpec(id=name, family=family, dtype="float32", options=options, **written)
    return spec.model_copy(update=changes)


def request_of(name: str) -> GenerationRequest:
    usual = full_size.usual(name)
    file = {"sha256": "0" * 64, "media_type": "image/png", "size_bytes": 1}
    file |= {"width": SIDE, "height": SIDE}
    return GenerationRequest.model_validate(
        {
            "model": name,
            "mode": usual.mode,
            "prompt": "a red cat",
            "width": SIDE,
            "height": SIDE,
            "steps": 10,  # fewer, and a recipe spaces SDXL's steps better than the library
            "guidance": usual.guidance,
            "seed": 1,
            "scheduler": "euler",
            "strength": 1.0,
            "images": [{"file": file, "role": role} for role in usual.images],
        }
    )


def drawn(spec: ModelSpec, request: GenerationRequest, watcher: Watcher) -> Image.Image:
    pipeline = registry.make(spec.family)
    pipeline.load(spec, "cpu", Shelf())
    assert pipeline.size_bytes() > 0
    ramp = Image.radial_gradient("L").resize((SIDE, SIDE))
    inputs = {one.role: ramp.convert(PICTURED.get(one.role, "RGB")) for one in request.images}
    image = pipeline.generate(request, 1, inputs, watcher)
    pipeline.unload()
    assert pipeline.size_bytes() == 0
    return image


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_and_the_plain_pipeline_draw_the_same(name: str, tmp_path: Path):
    spec, request, watcher = spec_of(name, tmp_path), request_of(name), Watcher()
    one = drawn(spec, request, Watcher())
    other = drawn(spec.model_copy(update={"family": "diffusers"}), request, watcher)
    assert one.size == other.size == (SIDE, SIDE)
    assert watcher.stages == [Stage.PROCESS, Stage.ENCODE]
    assert sum(ImageStat.Stat(one).stddev) > 1, "nothing to compare"
    assert sum(ImageStat.Stat(ImageChops.difference(one, other)).mean) < 1


@pytest.mark.parametrize("factor", shrinking.FACTORS[1:])
def test_what_is_divided_still_fits_together(factor: int):
    unet = shrinking.shrunk(
        {
            "_class_name": "UNet2DConditionModel",
            "attention_head_dim": [5, 10, 20],
            "block_out_channels": [320, 640, 1280],
            "norm_num_groups": 32,
            "in_channels": 4,
        },
        factor,
    )
    assert unet["in_channels"] == 4
    for channels, heads in zip(unet["block_out_channels"], unet["attention_head_dim"], strict=True):
        assert channels % heads == 0
        assert channels % unet["norm_num_groups"] == 0


def test_a_factor_that_divides_no_width_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="one of 1, 2, 4, 8, 16, 32"):
        full_size.write("sd15", tmp_path, TINY, shrink=3)


def test_the_plain_pipeline_draws_no_real_model(tmp_path: Path):
    spec = spec_of("sd15", tmp_path, family="diffusers", options={})
    with pytest.raises(BrokenModel, match="random_weights"):
        registry.make("diffusers").load(spec, "cpu", Shelf())


def test_a_process_knows_its_peak():
    peak_memory.begin("cpu")
    before = peak_memory.peak_bytes("cpu")
    assert before is not None
    held = bytes(64 * 2**20).replace(b"\0", b"\1")  # touched, so that it is resident
    after = peak_memory.peak_bytes("cpu")
    assert after is not None
    assert after >= before
    assert after > len(held)
