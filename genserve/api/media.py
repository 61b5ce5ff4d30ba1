"""Pictures on their way in and out: base64, data URIs, stored files, signed links."""

import binascii
import re
from base64 import b64encode

from genserve.api.body import mebibytes
from genserve.api.language import say
from genserve.config import Api
from genserve.core.keyring import KeyRing
from genserve.domain.task import ResultImage
from genserve.errors import BadImage, ImageNotFound, ImageTooLarge, Language
from genserve.store.blobs import BlobStore

ACCEPTED = frozenset({"image/png", "image/jpeg", "image/jpg", "image/webp"})
DATA_URI = re.compile(r"data:([^;,]{0,100})((?:;[^;,]{0,100})*),", re.IGNORECASE)
MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
FILE_NAME = re.compile(r"([0-9a-f]{64})\.(png|jpg|webp)")


def decode_base64(text: str, field: str, limits: Api, language: Language) -> bytes:
    """The bytes of base64 with or without a `data:` prefix.

    `field` is the request's field, for messages. What the bytes really are is found out by the
    decoder. Raises `BadImage` and `ImageTooLarge`.
    """
    prefix = DATA_URI.match(text)
    if prefix:
        media_type = prefix.group(1).strip().casefold()
        if media_type not in ACCEPTED:
            problem = say(language, "wrong_type", type=media_type or "text/plain")
            raise BadImage(field=field, problem=problem)
        if not prefix.group(2).casefold().endswith(";base64"):
            raise BadImage(field=field, problem=say(language, "not_base64"))
        text = text[prefix.end() :]
    if len(text) * 3 // 4 > mebibytes(limits.max_image_mib) + 3:
        raise ImageTooLarge(field=field, limit=f"{limits.max_image_mib:g} MiB")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        pass  # perhaps only broken into lines or without its padding
    compact = "".join(text.split()).rstrip("=")
    try:
        return binascii.a2b_base64(compact + "=" * (-len(compact) % 4), strict_mode=True)
    except ValueError:
        raise BadImage(field=field, problem=say(language, "not_base64")) from None


def data_uri(image: ResultImage, data: bytes) -> str:
    """A finished picture as the users' document shows it."""
    return f"data:{image.media_type};base64,{b64encode(data).decode()}"


def read_picture(blobs: BlobStore, sha256: str, name: str) -> bytes:
    """One stored picture. Raises `ImageNotFound` when it is no longer stored."""
    try:
        return blobs.path(sha256).read_bytes()
    except FileNotFoundError:
        raise ImageNotFound(name=name) from None


def signed_link(keys: KeyRing, origin: str | None, file_name: str, expires_at: int) -> str:
    """A link that shows one picture to whoever has it, until `expires_at` (Unix seconds).

    `origin` as `https://host`; None leaves the link relative.
    """
    signature = keys.sign_image(file_name, expires_at)
    return f"{origin or ''}/images/{file_name}?expires={expires_at}&signature={signature}"
