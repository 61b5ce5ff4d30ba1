"""The pictures of a request as a recipe gets them, and what is the caller's own in the answer."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from genserve.domain.request import GenerationRequest, ImageRole
from genserve.pipelines import images
from tests.pipelines.conftest import request

ASKED, DRAWN = (384, 256), (144, 112)


def given(folder: Path, **pictures: Image.Image) -> tuple[GenerationRequest, dict[str, str]]:
    """A request with these pictures, by role, and where their files lie."""
    files, listed = dict[str, str](), list[dict[str, Any]]()
    for role, picture in pictures.items():
        path = folder / f"{role}.png"
        picture.save(path)
        digest = sha256(path.read_bytes()).hexdigest()
        files[digest] = str(path)
        file = {"sha256": digest, "media_type": "image/png", "size_bytes": 1}
        file |= {"width": picture.width, "height": picture.height}
        listed.append({"file": file, "role": role})
    return request(width=ASKED[0], height=ASKED[1], images=listed), files


def photo(size: tuple[int, int]) -> Image.Image:
    """Different in every pixel, so that nothing goes unnoticed."""
    bands = [Image.effect_noise(size, spread) for spread in (50, 90, 120)]
    return Image.merge("RGB", bands)


def disc(size: tuple[int, int], mode: str = "L") -> Image.Image:
    """White in the middle, black around."""
    mask = Image.new(mode, size)
    box = (size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4)
    ImageDraw.Draw(mask).ellipse(box, fill="white")
    return mask


def test_each_role_in_its_own_form(tmp_path: Path):
    asked, files = given(
        tmp_path,
        init=photo((600, 400)),
        mask=disc((600, 400), "RGB"),
        control=disc((300, 200)),
        reference=photo((77, 311)),
    )
    inputs = images.read_inputs(asked, files, DRAWN)
    assert {role: (image.mode, image.size) for role, image in inputs.items()} == {
        ImageRole.INIT: ("RGB", DRAWN),
        ImageRole.MASK: ("L", DRAWN),
        ImageRole.CONTROL: ("RGB", DRAWN),
        ImageRole.REFERENCE: ("RGB", (77, 311)),
    }


def test_what_is_black_in_a_mask_stays_black(tmp_path: Path):
    """A filter that swings would let a little of the drawing through beside every edge."""
    small = (ASKED[0] // 8, ASKED[1] // 8)
    mask = Image.new("L", small)
    mask.paste(255, (small[0] // 2, 0, *small))
    asked, files = given(tmp_path, init=photo(small), mask=mask)
    read = images.read_inputs(asked, files, ASKED)[ImageRole.MASK]
    edge, one_pixel = ASKED[0] // 2, 8
    assert max(read.crop((0, 0, edge - one_pixel, ASKED[1])).tobytes()) == 0
    assert min(read.crop((edge + one_pixel, 0, *ASKED)).tobytes()) == 255


def test_a_transparent_part_of_a_mask_is_to_be_drawn(tmp_path: Path):
    """As OpenAI's masks have it: what can be seen through is to be filled."""
    mask = Image.new("RGBA", ASKED, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (100, 100, 200, 200))
    asked, files = given(tmp_path, init=photo(ASKED), mask=mask)
    read = images.read_inputs(asked, files, ASKED)[ImageRole.MASK]
    assert read.getpixel((150, 150)) == 255
    assert read.getpixel((50, 50)) == 0


@pytest.mark.parametrize("size", [ASKED, (500, 500), (100, 40)])
def test_outside_of_the_mask_the_answer_is_the_callers_own(tmp_path: Path, size: tuple[int, int]):
    """At the size asked for, to the last bit; inside it is what was drawn."""
    init = photo(size)
    asked, files = given(tmp_path, init=init, mask=disc(size))
    drawn = Image.new("RGB", ASKED, "red")
    answer = images.keeper(asked, files, ASKED)(drawn)
    own = images.read_inputs(asked, files, ASKED)
    mask = own[ImageRole.MASK]
    assert answer.size == ASKED
    kept = [
        answer.getpixel(at) == own[ImageRole.INIT].getpixel(at)
        for at in _everywhere()
        if mask.getpixel(at) == 0
    ]
    filled = [
        answer.getpixel(at) == (255, 0, 0) for at in _everywhere() if mask.getpixel(at) == 255
    ]
    assert len(kept) > 1000
    assert len(filled) > 1000
    assert all(kept)
    assert all(filled)
    if size == ASKED:
        assert answer.getpixel((0, 0)) == init.getpixel((0, 0))


def _everywhere() -> list[tuple[int, int]]:
    return [(x, y) for x in range(0, ASKED[0], 3) for y in range(0, ASKED[1], 3)]


def test_a_picture_that_is_gone_is_told(tmp_path: Path):
    asked, files = given(tmp_path, init=photo(ASKED), mask=disc(ASKED))
    (tmp_path / "mask.png").unlink()
    with pytest.raises(OSError, match="mask"):
        images.keeper(asked, files, ASKED)
