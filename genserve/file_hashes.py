"""The sha256 of large files, computed once: remembered by path, size, time of change and inode.

The server (LoRAs) and the worker processes (models' components) remember in the same folder, one
small file for each hash: so none waits for another, and none writes over what another has learnt.
Losing it costs time, nothing else; so it is read and written without complaint, and each at once or
not at all. It stands below all rooms, because `store` and `pipelines` do not import each other.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

FOLDER = "hashes"
"""Where in the run folder."""


@dataclass(frozen=True, slots=True)
class FileStamp:
    """A file as the file system knows it: what has the same stamp has the same content."""

    path: str
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, file: Path) -> "FileStamp":
        """Raises `OSError`."""
        stat = file.stat()
        return cls(str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino)

    def digest(self) -> str:
        """A file name to remember something of it under."""
        return hashlib.sha256(json.dumps(astuple(self)).encode()).hexdigest()[:32]


def fingerprint(files: Iterable[Path]) -> str:
    """Changes when one of the files does, or comes or goes. Reads none. Raises `OSError`."""
    digests = sorted(FileStamp.of(file).digest() for file in files)
    return joined(*digests)


def joined(*fingerprints: str) -> str:
    """One fingerprint that changes when one of these does."""
    return hashlib.sha256(" ".join(fingerprints).encode()).hexdigest()[:16]


class FileHashes:
    """Remembers hashes."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is kept for later processes; None: only this object remembers."""
        self._folder = folder
        self._known: dict[FileStamp, str] = {}

    def sha256(self, stamp: FileStamp) -> str | None:
        """The hash of the file's content, in hexadecimal.

        None when the file is another one by now, so that nobody can tell what had that stamp.
        """
        if stamp not in self._known:
            digest = self._remembered(stamp) or self._hash(stamp)
            if digest is None:
                return None
            self._known[stamp] = digest
        return self._known[stamp]

    def _remembered(self, stamp: FileStamp) -> str | None:
        if self._folder is None:
            return None
        try:
            digest = (self._folder / stamp.digest()).read_text(encoding="ascii")
        except (OSError, ValueError):
            return None
        return digest if len(digest) == 64 else None

    def _hash(self, stamp: FileStamp) -> str | None:
        file = Path(stamp.path)
        try:
            if FileStamp.of(file) != stamp:
                return None
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            if FileStamp.of(file) != stamp:  # it was written meanwhile
                return None
        except OSError:
            return None
        self._remember(stamp, digest)
        return digest

    def _remember(self, stamp: FileStamp, digest: str) -> None:
        if self._folder is None:
            return
        with contextlib.suppress(OSError):  # no data folder yet, or no room: it is hashed again
            self._folder.mkdir(exist_ok=True)
            unfinished = self._folder / f".{stamp.digest()}.{os.getpid()}"
            unfinished.write_text(digest, encoding="ascii")
            unfinished.replace(self._folder / stamp.digest())
