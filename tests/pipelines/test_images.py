"""Sizes, inputs and files: pure pictures, no model."""

import io
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from genserve.domain.request import Output
from genserve.pipelines import images, metadata
from genserve.pipelines.base import UnusablePicture
from tests.pipelines.conftest import request, tiny_spec

SIDES = st.integers(1, 128).map(lambda number: 16 * number)
MARK = "digitalsourcetype/trainedAlgorithmicMedia"


def opened(data: bytes) -> Any:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def disc(size: tuple[int, int]) -> Image.Image:
    """A black disc in the middle of white, half as high as the picture."""
    image = Image.new("RGB", size, "white")
    x, y, radius = size[0] / 2, size[1] / 2, size[1] / 4
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill="black")
    return image


def dark_box(image: Image.Image) -> tuple[int, int]:
    """Width and height of what is dark."""
    box = image.convert("L").point(lambda value: 255 if value < 128 else 0).getbbox()
    assert box is not None
    return box[2] - box[0], box[3] - box[1]


# Sizes


@given(SIDES, SIDES)
def test_what_is_larger_than_native_is_drawn_in_the_nearest_shape(width: int, height: int):
    spec = tiny_spec()
    drawn = images.drawing_size(spec, (width, height))
    if width * height <= 16_384:
        assert drawn == (width, height)
        return
    assert drawn in spec.buckets
    off = {size: abs(math.log(size[0] * height / (size[1] * width))) for size in spec.buckets}
    assert off[drawn] == min(off.values())


@given(SIDES, SIDES)
def test_models_that_are_not_enlarged_draw_what_is_asked(width: int, height: int):
    assert images.drawing_size(tiny_spec(upscale=False), (width, height)) == (width, height)


def test_without_trained_sizes_the_native_square_is_drawn():
    spec = tiny_spec(buckets=(), native_pixels=20_000)
    assert images.drawing_size(spec, (1024, 512)) == (128, 128)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 600), st.integers(1, 600), st.booleans())
def test_the_answer_has_exactly_the_size_asked_for(width: int, height: int, stretch: bool):
    drawn = Image.new("RGB", (36, 28))
    assert images.enlarge(drawn, (width, height), stretch=stretch).size == (width, height)


def test_a_circle_stays_round_when_the_picture_is_enlarged():
    width, height = dark_box(images.enlarge(disc((144, 112)), (768, 512), stretch=False))
    assert abs(width - height) <= 4


def test_an_enlarged_edge_is_steep_and_has_no_halo():
    small = Image.new("RGB", (16, 16), (200, 40, 40))
    small.paste((40, 40, 200), (8, 0, 16, 16))
    row = images.enlarge(small, (128, 128), stretch=True).crop((0, 64, 128, 65)).tobytes()
    reds = list(row[::3])
    assert reds == sorted(reds, reverse=True)
    assert (reds[0], reds[-1]) == (200, 40)
    plain = small.resize((128, 128), Image.Resampling.LANCZOS).crop((0, 64, 128, 65)).tobytes()
    between = [sum(50 < red < 190 for red in reds), sum(50 < red < 190 for red in plain[::3])]
    assert between[0] <= between[1] / 2


# Inputs


def saved(tmp_path: Path, image: Image.Image) -> tuple[dict[str, Any], dict[str, str]]:
    path = tmp_path / "input.png"
    image.save(path)
    file = {
        "sha256": "a" * 64,
        "media_type": "image/png",
        "width": image.width,
        "height": image.height,
        "size_bytes": 1,
    }
    return {"mode": "img2img", "images": [{"file": file, "role": "init"}]}, {"a" * 64: str(path)}


def test_an_input_of_another_shape_is_cropped_and_not_stretched(tmp_path: Path):
    asked, files = saved(tmp_path, disc((400, 200)))
    (image,) = images.read_inputs(request(**asked), files, (128, 128)).values()
    assert (image.mode, image.size) == ("RGB", (128, 128))
    width, height = dark_box(image)
    assert abs(width - height) <= 2
    assert abs(height - 64) <= 2


def test_an_input_comes_back_where_it_was_when_the_answer_is_enlarged(tmp_path: Path):
    original = disc((768, 512))
    asked, files = saved(tmp_path, original)
    asked |= {"width": 768, "height": 512}
    (squeezed,) = images.read_inputs(request(**asked), files, (144, 112)).values()
    width, height = dark_box(images.enlarge(squeezed, (768, 512), stretch=True))
    assert abs(width - 256) <= 6
    assert abs(height - 256) <= 6


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3000, 2)])
def test_an_input_of_any_size_will_do(tmp_path: Path, size: tuple[int, int]):
    asked, files = saved(tmp_path, Image.new("RGBA", size, (0, 0, 255, 127)))
    (image,) = images.read_inputs(request(**asked), files, (128, 128)).values()
    assert image.size == (128, 128)
    assert image.tobytes()[:3] == bytes((128, 128, 255))  # half blue over white


def test_a_file_that_is_no_picture_is_told(tmp_path: Path):
    asked, files = saved(tmp_path, Image.new("L", (4, 4)))
    (tmp_path / "input.png").write_bytes(b"GIF89a no picture")
    with pytest.raises(OSError, match="cannot identify"):
        images.read_inputs(request(**asked), files, (128, 128))


# Constant pictures


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_an_exactly_constant_picture_is_refused(mode: str):
    flat = Image.new(mode, (16, 16), "black")
    with pytest.raises(UnusablePicture):
        images.refuse_constant(flat)
    flat.putpixel((3, 3), 1 if mode == "L" else (0, 0, 1, 255)[: len(mode)])
    images.refuse_constant(flat)


# Files


@pytest.mark.parametrize("prompt", ["a cat", "café", "一只可爱的小猫", "two\nlines", "nul\0byte"])
@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_a_file_tells_what_it_was_made_with(prompt: str, kind: str):
    asked = request(prompt=prompt, output={"format": kind}, width=256, height=256)
    text = parameters(asked)
    image = opened(images.encode(disc((64, 64)), asked.output, text, metadata.xmp(asked)))
    assert image.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[kind]
    if kind == "png":
        assert image.text["parameters"] == text
        assert MARK in image.text["XML:com.adobe.xmp"]
    else:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert comment == b"UNICODE\0" + text.encode("utf-16-be")
        assert MARK.encode() in image.info["xmp"]
    assert prompt.replace("\0", "") in text


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_a_file_tells_nothing_when_it_is_not_to(kind: str):
    output = Output(format=kind, metadata=False)
    data = images.encode(disc((64, 64)), output, "the prompt", metadata.xmp(request()))
    image = opened(data)
    assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "loop"} | {
        "background",
        "timestamp",
        "duration",
    }
    assert not image.getexif()
    assert b"prompt" not in data


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_the_same_picture_gives_the_same_bytes(kind: str):
    asked = request(output={"format": kind})
    files = {
        images.encode(disc((64, 64)), asked.output, parameters(asked), metadata.xmp(asked))
        for _ in range(2)
    }
    assert len(files) == 1


def test_quality_makes_smaller_files():
    noise = Image.effect_noise((128, 128), 60).convert("RGB")
    sizes = [
        len(images.encode(noise, Output(format="jpg", quality=quality), "", ""))
        for quality in (10, 95)
    ]
    assert sizes[0] < sizes[1] / 2


def test_a_png_is_exact():
    noise = Image.effect_noise((64, 64), 60).convert("RGB")
    assert opened(images.encode(noise, Output(), "", "")).tobytes() == noise.tobytes()


# What it says


def parameters(asked: Any, *, native: Any = None, distilled_guidance: bool = True) -> str:
    return metadata.parameters(
        asked,
        tiny_spec(),
        seed=5,
        native=native or (asked.width, asked.height),
        distilled_guidance=distilled_guidance,
    )


def test_the_parameters_are_a1111s():
    lines = parameters(request(prompt="a cat", negative_prompt="dogs")).split("\n")
    assert lines[:2] == ["a cat", "Negative prompt: dogs"]
    assert lines[2].startswith(
        "Steps: 3, Sampler: Euler, CFG scale: 1, Distilled CFG Scale: 3.5, Seed: 5, "
        "Size: 64x64, Model: tiny-flux-dev, Version: GenServe "
    )


def test_true_guidance_is_the_cfg_scale():
    assert "CFG scale: 3.5, Seed" in parameters(request(), distilled_guidance=False)


def test_a_stand_in_and_an_enlarged_picture_say_so():
    text = parameters(request(model="flux1-dev", width=1024, height=1024), native=(128, 128))
    assert "Size: 1024x1024, Model: flux1-dev" in text
    assert "Served by: tiny-flux-dev, Native size: 128x128" in text


def test_a_value_that_would_end_its_pair_is_quoted():
    assert 'Model: "a, b: c"' in parameters(request(model="a, b: c"))


def test_a_picture_made_from_a_picture_is_marked_as_composite(tmp_path: Path):
    asked, _ = saved(tmp_path, disc((8, 8)))
    assert "compositeWithTrainedAlgorithmicMedia" in metadata.xmp(request(**asked))
    assert "Denoising strength: 0.8" in parameters(request(**asked))
    assert MARK in metadata.xmp(request())
