"""What a caller wishes about the answer, told in headers: Accept, Prefer, Idempotency-Key."""

import re

from starlette.datastructures import Headers

from genserve.api.language import say
from genserve.errors import Language, ValidationFailed

PRINTABLE = re.compile(r"[\x20-\x7e]{1,255}")


def wants_image(accept: str | None) -> bool:
    """Whether an Accept header prefers a picture itself to JSON that carries it.

    An image type must be what is liked best; `*/*` is no image type, and a browser that would
    rather have a page is not given a picture.
    """
    best_weight, best_range = 0.0, ""
    for item in (accept or "").split(","):
        media_range, *parameters = (part.strip().casefold() for part in item.split(";"))
        weight = next((_quality(text) for text in parameters if text.startswith("q=")), 1.0)
        if weight > best_weight:
            best_weight, best_range = weight, media_range
    return best_range.startswith("image/")


def prefers_async(headers: Headers) -> bool:
    """Whether `Prefer: respond-async` (RFC 7240) was sent."""
    wishes = ",".join(headers.getlist("prefer")).casefold().split(",")
    return any(wish.partition(";")[0].strip() == "respond-async" for wish in wishes)


def idempotency_key(headers: Headers, language: Language) -> str | None:
    """The Idempotency-Key header. Raises `ValidationFailed` for one that cannot be kept."""
    key = headers.get("idempotency-key")
    if key is not None and not PRINTABLE.fullmatch(key):
        raise ValidationFailed(problems=[say(language, "key_header")])
    return key


def _quality(text: str) -> float:
    try:
        return float(text.removeprefix("q="))
    except ValueError:
        return 0.0
