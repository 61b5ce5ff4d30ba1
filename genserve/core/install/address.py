"""A file at an address, of no repository: what it is called, and whether it is weights."""

import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from genserve.errors import UnusableDownload
from genserve.outbound.checksum import Checksum
from genserve.outbound.transfer import Remote
from genserve.store.safetensors_header import MAX_HEADER_BYTES
from genserve.store.weights import GGUF_MAGIC


def at_address(address: str, checksum: Checksum | None) -> Remote:
    """How to fetch it; it is given up at its first bytes when these are no weights."""
    name = PurePosixPath(unquote(urlsplit(address).path)).name or "file"
    return Remote(
        url=address, name=name, checksum=checksum, look=lambda head: check_head(name, head)
    )


def check_head(name: str, head: bytes) -> None:
    """Raises `UnusableDownload` unless a file begins as weights do."""
    if len(head) <= 8 or head.startswith(GGUF_MAGIC):
        return  # too few to tell: the scan of the whole file will
    if int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES and head[8:9] == b"{":
        return
    page = re.match(rb"\s*<(!doctype|html)", head, re.IGNORECASE)
    problem = "it is a web page, not a file" if page else "it is not a safetensors file"
    raise UnusableDownload(name=name, problem=problem)
