"""Base64 on its way in."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genserve.api.media import decode_base64
from genserve.config import Api
from genserve.errors import BadImage, ImageTooLarge

LIMITS = Api(max_image_mib=0.01)


def decoded(text: str) -> bytes:
    return decode_base64(text, "input_image", LIMITS, "en")


@given(
    st.binary(max_size=200),
    st.sampled_from(["", "data:image/png;base64,", "DATA:image/JPEG;charset=x;BASE64,"]),
    st.booleans(),
    st.booleans(),
)
def test_base64_comes_back(data: bytes, prefix: str, padded: bool, broken: bool) -> None:
    text = b64encode(data).decode()
    if not padded:
        text = text.rstrip("=")
    if broken:  # into lines, as `base64` on the command line does
        text = "\n".join(text[i : i + 76] for i in range(0, len(text), 76)) + "\n"
    assert decoded(prefix + text) == data


@pytest.mark.parametrize(
    "text",
    [
        "not base64!",
        "data:image/png;base64,@@@@",
        "data:image/png,AAAA",
        "https://example.org/cat.png",
        "AAAAA",
        "图片",
        "AA=A",
    ],
)
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadImage, match="input_image: is not valid base64"):
        decoded(text)


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "application/pdf", "image/gif"])
def test_a_data_uri_of_another_type_is_named(kind: str) -> None:
    with pytest.raises(BadImage, match=kind.replace("+", r"\+")):
        decoded(f"data:{kind};base64,AAAA")


def test_an_image_may_be_as_large_as_the_limit_and_no_larger() -> None:
    limit = int(0.01 * 1024 * 1024)
    assert len(decoded(b64encode(bytes(limit)).decode())) == limit
    with pytest.raises(ImageTooLarge, match=r"0\.01 MiB"):
        decoded(b64encode(bytes(limit + 8)).decode())
