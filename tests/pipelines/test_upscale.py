"""Enlarging: sizes, tiles without seams, and networks of any factor behind one seam."""

import logging
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest, ImageRole, Mode
from genserve.pipelines import lanczos, super_resolution, tiles
from genserve.pipelines.base import BrokenModel, Cancelled, DeviceKind
from genserve.pipelines.picture_tool import PictureTool
from genserve.pipelines.shelf import Shelf
from genserve.pipelines.super_resolution import SuperResolution, passes
from tests.pipelines.conftest import Watcher

SIDES = st.integers(1, 3000)


class Sharpener(torch.nn.Module):
    """A small network as spandrel describes one: blurs over 5 x 5 pixels, then enlarges."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.input_channels = self.output_channels = 3
        weight = torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(1))
        self.weight = torch.nn.Parameter(weight / weight.sum((1, 2, 3), keepdim=True))
        self.sizes: list[tuple[int, int]] = []

    @property
    def model(self) -> torch.nn.Module:
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert image.shape[:2] == (1, 3)
        assert float(image.min()) >= 0
        assert float(image.max()) <= 1
        self.sizes.append((image.shape[3], image.shape[2]))
        blurred = torch.nn.functional.conv2d(image, self.weight, padding=2)
        return torch.nn.functional.interpolate(blurred, scale_factor=self.scale, mode="nearest")


def picture(width: int, height: int) -> Image.Image:
    noise = numpy.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=numpy.uint8)
    image = Image.fromarray(noise)
    ImageDraw.Draw(image).rectangle((width // 4, height // 4, width // 2, height // 2), "red")
    return image


def weights(folder: Path, **tensors: torch.Tensor) -> Path:
    folder.mkdir()
    save_file(tensors or {"weight": torch.zeros(1)}, folder / "network.safetensors")
    return folder


def loaded(folder: Path, network: Any) -> PictureTool:
    def read(weights: Path, device: DeviceKind) -> Any:
        assert (weights.name, device) == ("network.safetensors", "cpu")
        return network

    pipeline = PictureTool(SuperResolution(read))
    pipeline.load(ModelSpec(id="sharp", family="spandrel", folder=folder), "cpu", Shelf("cpu"))
    return pipeline


def asked(width: int | None, height: int | None) -> GenerationRequest:
    return GenerationRequest(model="m", mode=Mode.UPSCALE, prompt="", width=width, height=height)


def drawn(
    pipeline: PictureTool, image: Image.Image, size: tuple[int, int], hook: Watcher | None = None
) -> Image.Image:
    inputs = {ImageRole.REFERENCE: image}
    return pipeline.generate(asked(*size), 0, inputs, hook or Watcher())


class TestTiles:
    @given(SIDES, SIDES, st.integers(1, 700), st.integers(0, 99))
    def test_their_own_parts_cover_the_picture_once(
        self, height: int, width: int, tile: int, overlap: int
    ) -> None:
        rows, columns = set(), set()
        covered = 0
        for piece in tiles.tiles_of(height, width, max(tile, height // 20 + 1, width // 20 + 1)):
            (top, left), (seen_rows, seen_columns) = piece.own, piece.seen
            covered += (top.stop - top.start) * (left.stop - left.start)
            rows.add((top.start, top.stop))
            columns.add((left.start, left.stop))
            assert 0 <= seen_rows.start <= top.start < top.stop <= seen_rows.stop <= height
            assert 0 <= seen_columns.start <= left.start < left.stop <= seen_columns.stop <= width
        assert covered == height * width
        for spans, length in ((sorted(rows), height), (sorted(columns), width)):
            assert spans[0][0] == 0
            assert spans[-1][1] == length
            assert all(one[1] == other[0] for one, other in pairwise(spans))

    @pytest.mark.parametrize("scale", [1, 2, 4])
    def test_no_seam_shows(self, scale: int) -> None:
        """What the network sees of its neighbours is enough, so the pieces are as one."""
        network = Sharpener(scale)
        pixels = torch.from_numpy(numpy.array(picture(83, 61))).permute(2, 0, 1)
        whole = tiles.run(network, pixels, scale, lambda: None, tile=1000, overlap=0)
        pieces = tiles.run(network, pixels, scale, lambda: None, tile=16, overlap=2)
        assert whole.shape == (3, 61 * scale, 83 * scale)
        assert torch.equal(whole, pieces)
        torn = tiles.run(network, pixels, scale, lambda: None, tile=16, overlap=0)
        assert not torch.equal(whole, torn), "so the comparison can tell"


class TestPasses:
    @given(SIDES, SIDES, SIDES, SIDES, st.sampled_from([1, 2, 3, 4, 8]))
    def test_it_ends_goes_through_once_and_wastes_little(
        self, width: int, height: int, to_width: int, to_height: int, scale: int
    ) -> None:
        sizes = passes((width, height), (to_width, to_height), scale)
        assert 1 <= len(sizes) <= super_resolution.MOST_PASSES
        for size in sizes:
            sides = [size[axis] * scale for axis in (0, 1)]
            needed = [to_width, to_height]
            # Twice as large on the side that is nearer to what is needed, and rounding.
            assert min(sides[a] - 2 * needed[a] - scale for a in (0, 1)) <= 0

    @pytest.mark.parametrize(
        ("given_size", "to_size", "scale", "sizes"),
        [
            ((100, 50), (200, 100), 2, [(100, 50)]),
            ((100, 50), (400, 200), 2, [(100, 50), (200, 100)]),
            ((100, 50), (150, 75), 4, [(75, 38)]),
            ((100, 50), (500, 250), 4, [(100, 50), (250, 125)]),
            ((100, 50), (100, 50), 1, [(100, 50)]),
            ((10, 10), (1000, 1000), 2, [(10, 10), (20, 20), (40, 40)]),
        ],
    )
    def test_sizes(
        self,
        given_size: tuple[int, int],
        to_size: tuple[int, int],
        scale: int,
        sizes: list[tuple[int, int]],
    ) -> None:
        assert passes(given_size, to_size, scale) == sizes


class TestNetworks:
    @pytest.mark.parametrize("scale", [1, 2, 4])
    def test_the_size_is_what_was_asked_for(self, tmp_path: Path, scale: int) -> None:
        pipeline = loaded(weights(tmp_path / "sharp"), Sharpener(scale))
        for size in ((120, 80), (61, 41), (300, 200), (90, 90)):
            assert drawn(pipeline, picture(60, 40), size).size == size

    def test_the_network_has_made_it(self, tmp_path: Path) -> None:
        network = Sharpener(2)
        pipeline = loaded(weights(tmp_path / "sharp"), network)
        image = picture(60, 40)
        pixels = torch.from_numpy(numpy.array(image)).permute(2, 0, 1)
        wanted = tiles.run(network, pixels, 2, lambda: None)
        made = drawn(pipeline, image, (120, 80))
        assert numpy.array_equal(numpy.array(made), wanted.permute(1, 2, 0).numpy())

    def test_a_large_picture_goes_through_in_tiles_which_are_steps(self, tmp_path: Path) -> None:
        network = Sharpener(2)
        pipeline = loaded(weights(tmp_path / "sharp"), network)
        hook = Watcher()
        drawn(pipeline, picture(600, 300), (1200, 600), hook)
        assert hook.steps == [(number, 6) for number in range(1, 7)]
        assert max(max(size) for size in network.sizes) <= tiles.TILE + 2 * tiles.OVERLAP

    def test_it_can_be_cancelled_between_tiles(self, tmp_path: Path) -> None:
        pipeline = loaded(weights(tmp_path / "sharp"), Sharpener(2))
        hook = Watcher(cancel_at=2)
        with pytest.raises(Cancelled):
            drawn(pipeline, picture(600, 300), (1200, 600), hook)
        assert len(hook.steps) == 2

    def test_its_weights_are_counted_and_given_back(self, tmp_path: Path) -> None:
        pipeline = loaded(weights(tmp_path / "sharp"), Sharpener(2))
        assert pipeline.size_bytes() == 3 * 3 * 5 * 5 * 4
        pipeline.unload()
        assert pipeline.size_bytes() == 0

    def test_grey_ones_are_refused(self, tmp_path: Path) -> None:
        network = Sharpener(2)
        network.input_channels = 1
        with pytest.raises(BrokenModel, match="does not take and make RGB"):
            loaded(weights(tmp_path / "sharp"), network)

    def test_one_file_is_needed(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(BrokenModel, match=r"empty must hold one \.safetensors file"):
            loaded(tmp_path / "empty", Sharpener(2))


class TestLanczos:
    def test_it_is_pillows(self) -> None:
        pipeline = lanczos.pipeline()
        image = picture(60, 40)
        made = drawn(pipeline, image, (150, 100))
        assert made.tobytes() == image.resize((150, 100), Image.Resampling.LANCZOS).tobytes()

    def test_another_shape_is_cut_not_stretched(self) -> None:
        image = Image.new("RGB", (100, 50))
        ImageDraw.Draw(image).ellipse((30, 5, 70, 45), fill="white")
        box = drawn(lanczos.pipeline(), image, (200, 200)).point(lambda v: 255 * (v > 99)).getbbox()
        assert box is not None
        assert box[2] - box[0] == pytest.approx(box[3] - box[1], abs=2)


HAS_SPANDREL = find_spec("spandrel") is not None and find_spec("torchvision") is not None


@pytest.mark.skipif(HAS_SPANDREL, reason="spandrel is installed")
def test_without_the_package_the_extra_is_named(tmp_path: Path) -> None:
    pipeline = super_resolution.pipeline()
    spec = ModelSpec(id="sharp", family="spandrel", folder=weights(tmp_path / "sharp"))
    with pytest.raises(BrokenModel, match=r"pip install 'genserve\[upscale\]'"):
        pipeline.load(spec, "cpu", Shelf("cpu"))


@pytest.mark.skipif(not HAS_SPANDREL, reason="needs pip install 'genserve[upscale]'")
class TestSpandrel:
    """A real ESRGAN with random weights, written and read by the package itself."""

    @pytest.mark.parametrize("scale", [2, 4])
    def test_a_real_architecture(self, tmp_path: Path, scale: int) -> None:
        from spandrel.architectures.ESRGAN import ESRGAN

        logging.getLogger("spandrel").setLevel(logging.ERROR)
        torch.manual_seed(0)
        network = ESRGAN(num_filters=8, num_blocks=1, scale=scale)
        folder = weights(tmp_path / "real", **network.state_dict())
        pipeline = super_resolution.pipeline()
        pipeline.load(ModelSpec(id="real", family="spandrel", folder=folder), "cpu", Shelf("cpu"))
        assert pipeline.size_bytes() > 10_000
        made = drawn(pipeline, picture(40, 30), (40 * scale, 30 * scale))
        with torch.no_grad():
            pixels = torch.from_numpy(numpy.array(picture(40, 30))).permute(2, 0, 1)[None] / 255
            wanted = network.eval()(pixels).clamp(0, 1)[0].permute(1, 2, 0).numpy()
        difference = numpy.abs(numpy.array(made, float) / 255 - wanted)
        assert difference.max() < 0.02

    def test_weights_that_it_does_not_know(self, tmp_path: Path) -> None:
        pipeline = super_resolution.pipeline()
        spec = ModelSpec(id="odd", family="spandrel", folder=weights(tmp_path / "odd"))
        with pytest.raises(BrokenModel, match="no upscaler that spandrel knows"):
            pipeline.load(spec, "cpu", Shelf("cpu"))
