"""Untrusted pictures: what is accepted comes out clean, what is not is refused, and it goes on."""

import asyncio
import base64
import io
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw, PngImagePlugin

from genserve.errors import BadImage
from genserve.workers import decode_child
from genserve.workers.decode_wire import ANSWER, Problem
from genserve.workers.decoder import DecodedImage, ImageDecoder
from tests.workers.conftest import program

DOCUMENTED = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5E"
    "rkJggg=="
)
"""The 1x1 picture of the users' API document, which they paste."""


@pytest.fixture
async def start_decoder() -> AsyncIterator[Callable[..., Awaitable[ImageDecoder]]]:
    """Starts decoders, and stops them."""
    started: list[ImageDecoder] = []

    async def start(**settings: Any) -> ImageDecoder:
        started.append(ImageDecoder(**{"max_megapixels": 1, **settings}))
        await started[-1].start()
        return started[-1]

    yield start
    for decoder in started:
        await decoder.stop()


@pytest.fixture
async def decoder(start_decoder: Callable[..., Awaitable[ImageDecoder]]) -> ImageDecoder:
    return await start_decoder()


def drawing(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Image.Image:
    """White, with a red left half."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle((0, 0, size[0] // 2 - 1, size[1]), fill=(255, 0, 0))
    image = image.convert(mode)
    if image.mode.endswith("A"):
        image.putalpha(200)
    return image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(decoded: DecodedImage) -> Image.Image:
    image = Image.open(io.BytesIO(decoded.data), formats=("PNG",))
    image.load()
    return image


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    """Red, green, blue."""
    return tuple(image.convert("RGB").crop((x, y, x + 1, y + 1)).tobytes())


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def webp_header(width: int, height: int) -> bytes:
    """A WebP that claims a canvas and holds a single pixel."""
    still = encoded(Image.new("RGB", (1, 1)), "WEBP", lossless=True)
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4) + sides + still[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


async def refusal(decoder: ImageDecoder, data: bytes) -> str:
    """Why it is refused; and the decoder works on."""
    with pytest.raises(BadImage) as caught:
        await decoder.decode(data, "input_image")
    assert caught.value.params["field"] == "input_image"
    assert isinstance(await decoder.decode(encoded(drawing(), "PNG"), "next"), DecodedImage)
    return str(caught.value.params["problem"])


async def test_the_documented_picture_is_accepted_as_it_is(decoder: ImageDecoder):
    decoded = await decoder.decode(base64.b64decode(DOCUMENTED), "input_image")
    assert (decoded.width, decoded.height, decoded.media_type) == (1, 1, "image/png")
    assert opened(decoded).getpixel((0, 0)) == (0, 0, 255, 127)


@pytest.mark.parametrize(
    ("mode", "kind", "options", "becomes"),
    [
        ("RGB", "PNG", {}, "RGB"),
        ("RGBA", "PNG", {}, "RGBA"),
        ("L", "PNG", {}, "L"),
        ("1", "PNG", {}, "L"),
        ("P", "PNG", {}, "RGB"),
        ("LA", "PNG", {}, "RGBA"),
        ("RGB", "PNG", {"transparency": (255, 255, 255)}, "RGBA"),
        ("RGB", "JPEG", {"quality": 95}, "RGB"),
        ("RGB", "JPEG", {"progressive": True}, "RGB"),
        ("L", "JPEG", {}, "L"),
        ("CMYK", "JPEG", {"quality": 95}, "RGB"),
        ("RGB", "WEBP", {}, "RGB"),
        ("RGBA", "WEBP", {"lossless": True}, "RGBA"),
    ],
)
async def test_every_mode_becomes_a_plain_one(decoder: ImageDecoder, mode, kind, options, becomes):
    decoded = await decoder.decode(encoded(drawing(mode), kind, **options), "input_image")
    image = opened(decoded)
    assert (image.mode, image.size) == (becomes, (40, 20))
    assert (decoded.width, decoded.height) == (40, 20)
    red, white = pixel(image, 5, 10), pixel(image, 35, 10)
    assert min(white) > 240
    if mode not in ("L", "1", "LA"):
        assert red[0] > 200
        assert max(red[1:]) < 60


async def test_sixteen_bits_become_eight_by_scaling(decoder: ImageDecoder):
    deep = Image.new("I;16", (3, 1))
    for x, value in enumerate((0, 32768, 65535)):
        deep.putpixel((x, 0), value)
    image = opened(await decoder.decode(encoded(deep, "PNG"), "control_image"))
    assert image.mode == "L"
    assert [image.getpixel((x, 0)) for x in range(3)] == [0, 127, 255]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
async def test_a_picture_is_turned_as_its_exif_says(decoder: ImageDecoder, kind: str):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to the right to see it upright
    data = encoded(drawing(), kind, exif=exif.tobytes())
    decoded = await decoder.decode(data, "input_image")
    image = opened(decoded)
    assert (decoded.width, decoded.height) == image.size == (20, 40)
    assert pixel(image, 10, 5)[1] < 60  # the red half is on top now


async def test_everything_beside_the_pixels_is_dropped(decoder: ImageDecoder):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a secret prompt")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(
        drawing(), "PNG", exif=exif.tobytes(), pnginfo=text, icc_profile=profile, dpi=(72, 72)
    )
    decoded = await decoder.decode(data, "input_image")
    assert opened(decoded).info == {}
    assert b"camera" not in decoded.data
    kinds = [part for part in (b"tEXt", b"iTXt", b"eXIf", b"iCCP", b"pHYs") if part in decoded.data]
    assert kinds == []


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
async def test_of_an_animation_the_first_frame_is_taken(decoder: ImageDecoder, kind: str):
    second = Image.new("RGB", (40, 20), "blue")
    data = encoded(drawing(), kind, save_all=True, append_images=[second, second], duration=50)
    image = opened(await decoder.decode(data, "input_image"))
    assert image.size == (40, 20)
    assert pixel(image, 5, 10)[2] < 60


async def test_what_follows_the_picture_is_dropped(decoder: ImageDecoder):
    polyglot = encoded(drawing(), "PNG") + b"PK\x03\x04 an archive; <script>alert(1)</script>"
    decoded = await decoder.decode(polyglot, "input_image")
    assert b"script" not in decoded.data
    assert opened(decoded).size == (40, 20)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a picture",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"8BPS\x00\x01" + bytes(100),
        encoded(drawing(), "GIF"),
        encoded(drawing(), "TIFF"),
        encoded(drawing(), "BMP"),
        b"%PDF-1.7",
    ],
)
async def test_other_formats_are_refused(decoder: ImageDecoder, data: bytes):
    assert "not a PNG, JPEG or WebP" in await refusal(decoder, data)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM"])
async def test_other_formats_in_disguise_are_refused(decoder: ImageDecoder, kind: str):
    disguised = b"\x89PNG\r\n\x1a\n" + encoded(drawing(), kind)
    assert "damaged" in await refusal(decoder, disguised)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
async def test_truncated_pictures_are_refused(decoder: ImageDecoder, kind: str, share: float):
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    whole = encoded(noise, kind)
    assert "damaged" in await refusal(decoder, whole[: int(len(whole) * share)])


async def test_a_wrong_checksum_is_refused(decoder: ImageDecoder):
    data = bytearray(base64.b64decode(DOCUMENTED))
    data[data.index(b"IDAT") + 5] ^= 1
    assert "damaged" in await refusal(decoder, bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        png_header(1001, 1000),
        png_header(60_000, 60_000),
        png_header(2**31 - 1, 2**31 - 1),
        webp_header(16_384, 16_384),
        encoded(Image.new("L", (1001, 1000)), "JPEG"),
        encoded(Image.new("L", (1001, 1000)), "WEBP"),
        encoded(Image.new("RGB", (1001, 1000)), "WEBP", lossless=True),
        encoded(Image.new("RGBA", (1001, 1000)), "WEBP"),
    ],
)
async def test_too_many_pixels_are_refused_before_they_are_decoded(
    decoder: ImageDecoder, data: bytes
):
    assert "more than 1 megapixels" in await refusal(decoder, data)


async def test_a_bomb_behind_a_small_header_is_refused(decoder: ImageDecoder):
    pixels = zlib.compress(bytes(200_000_000), 9)
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    small = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels)
    # Eight rows are decoded and the rest is never unpacked.
    decoded = await decoder.decode(small + chunk(b"IEND", b""), "input_image")
    assert (decoded.width, decoded.height) == (8, 8)
    text = chunk(b"zTXt", b"parameters\0\0" + pixels)
    signature, rest = small[:33], small[33:]
    assert "damaged" in await refusal(decoder, signature + text + rest)


async def test_a_picture_beyond_the_memory_limit_is_refused_and_not_fatal(start_decoder):
    decoder = await start_decoder(max_megapixels=1000, memory_limit_bytes=256 * 1024**2)
    big = encoded(Image.new("RGB", (12_000, 12_000)), "PNG", compress_level=1)
    assert "memory" in await refusal(decoder, big)


@pytest.mark.parametrize("name", ["decoder_dies", "decoder_hangs"])
async def test_a_helper_that_is_lost_is_replaced(start_decoder, name: str):
    decoder = await start_decoder(timeout_s=0.1, command=program(name))
    for _ in range(5):  # more often than there are helpers
        with pytest.raises(BadImage) as caught:
            await decoder.decode(encoded(drawing(), "PNG"), "mask_image")
        assert "more time or memory" in str(caught.value.params["problem"])


async def test_a_caller_that_gives_up_leaves_no_wrong_answer_behind(decoder: ImageDecoder):
    slow = encoded(Image.effect_noise((1000, 1000), 90), "PNG")
    for _ in range(4):
        asked = asyncio.create_task(decoder.decode(slow, "input_image"))
        await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    decoded = await decoder.decode(encoded(drawing(), "PNG"), "input_image")
    assert (decoded.width, decoded.height) == (40, 20)


async def test_more_pictures_than_helpers_are_all_decoded(decoder: ImageDecoder):
    sizes = [(10 + number, 5) for number in range(12)]
    decoded = await asyncio.gather(
        *(decoder.decode(encoded(drawing(size=size), "PNG"), "input_image") for size in sizes)
    )
    assert [(image.width, image.height) for image in decoded] == sizes


def seeds_of_damage() -> Iterator[bytes]:
    for kind in ("PNG", "JPEG", "WEBP"):
        yield encoded(drawing(), kind)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(list(seeds_of_damage())), st.data())
def test_no_damage_gets_past_the_edge(whole: bytes, data: st.DataObject):
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    answer = decode_child.answer(bytes(damaged), 1_000_000)
    problem, width, height, size = ANSWER.unpack_from(answer)
    assert len(answer) == ANSWER.size + size
    if problem == Problem.NONE:
        assert width * height > 0
