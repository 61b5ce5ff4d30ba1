"""What a file's content must be: its SHA-256, or the object id that git gives a small file."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Checksum:
    """`git`: SHA-1 of "blob", the size and the content, as git names what it stores itself.

    That tells a broken download, not an attack; weights are always told by their SHA-256.
    """

    kind: Literal["sha256", "git"]
    digest: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.digest}"

    @classmethod
    def sha256(cls, text: str) -> "Checksum":
        """From 64 hexadecimal digits. Raises `ValueError`."""
        if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
            raise ValueError("must be 64 hexadecimal digits")
        return cls("sha256", text.lower())

    def of(self, path: Path) -> "Checksum":
        """The same kind of checksum of what a file really holds. Raises `OSError`."""
        if self.kind == "sha256":
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(usedforsecurity=False)
            digest.update(f"blob {path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return Checksum(self.kind, digest.hexdigest())
