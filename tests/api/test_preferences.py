"""Accept, Prefer and Idempotency-Key."""

import pytest
from starlette.datastructures import Headers

from genserve.api.preferences import idempotency_key, prefers_async, wants_image
from genserve.errors import ValidationFailed


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, False),
        ("*/*", False),
        ("application/json", False),
        ("image/png", True),
        ("image/*", True),
        ("IMAGE/WEBP", True),
        ("image/avif,image/webp,image/*,*/*;q=0.8", True),
        ("text/html,application/xhtml+xml,image/avif,image/webp,*/*;q=0.8", False),
        ("application/json, image/png;q=0.5", False),
        ("application/json;q=0.5, image/png", True),
        ("image/png;q=0", False),
        ("image/png;q=x", False),
        ("", False),
    ],
)
def test_a_picture_is_sent_when_it_is_liked_best(accept: str | None, wanted: bool) -> None:
    assert wants_image(accept) is wanted


@pytest.mark.parametrize(
    ("prefer", "wished"),
    [
        ([], False),
        (["respond-async"], True),
        (["wait=10, respond-async"], True),
        (["return=minimal", "Respond-Async; foo=1"], True),
        (["respond-asynchronously"], False),
    ],
)
def test_prefer_respond_async(prefer: list[str], wished: bool) -> None:
    headers = Headers(raw=[(b"prefer", text.encode()) for text in prefer])
    assert prefers_async(headers) is wished


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "ümlaut"])
def test_an_idempotency_key_must_be_printable_and_short(key: str) -> None:
    headers = Headers(raw=[(b"idempotency-key", key.encode("latin-1"))])
    with pytest.raises(ValidationFailed, match="255"):
        idempotency_key(headers, "en")


def test_a_good_idempotency_key_is_kept() -> None:
    assert idempotency_key(Headers({"Idempotency-Key": "x" * 255}), "en") == "x" * 255
    assert idempotency_key(Headers({}), "en") is None
