"""Files by their content: written once, whole or not at all, named by their SHA-256.

The server and the GPU processes share the folder. A file is there before its row is, and after: so
a file without a row may still be about to get one, and only its age tells. Whoever stores a file
that is already there makes it young again, and nobody deletes a young one.
"""

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from genserve.errors import StoreUnavailable

YOUNG_S = 600.0
"""Seconds in which a file that was stored (again) gets its row, with plenty to spare."""
SWEEP_BATCH = 500
RETRY_AFTER_S = 5.0
_NAME = re.compile(r"[0-9a-f]{64}")
_PROBLEMS = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk full",
    errno.EFBIG: "disk full",
    errno.EROFS: "read-only",
    errno.EACCES: "read-only",
    errno.EPERM: "read-only",
}


class BlobStore:
    """A folder of files, in sub-folders `ab/` by the first two digits of their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Where the file of that name is, or would be. Raises `ValueError` for no such name."""
        if not _NAME.fullmatch(sha256):
            raise ValueError("not the hex of a SHA-256")
        return self.folder / sha256[:2] / sha256

    def put(self, data: bytes) -> str:
        """Store a file and return its name; on return it would survive a power cut.

        Raises `StoreUnavailable` when the disk does not take it; then nothing is left behind.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.path(sha256)
        try:
            if not _rejuvenate(path):
                _write(path, data)
            _sync_folder(path.parent)
        except OSError as error:
            word = _PROBLEMS.get(error.errno or 0, "disk error")
            raise StoreUnavailable(problem=word, retry_after_s=RETRY_AFTER_S) from error
        return sha256

    def open(self, sha256: str) -> BinaryIO:
        """The file, for reading. Raises `FileNotFoundError`."""
        return self.path(sha256).open("rb")

    def read(self, sha256: str) -> bytes:
        """The file's content. Raises `FileNotFoundError`."""
        return self.path(sha256).read_bytes()

    def delete(self, sha256: str, *, older_than_s: float = YOUNG_S) -> bool:
        """Delete a file unless it is younger: then somebody has just stored it again.

        A file that is spared and stays without a row is deleted by `sweep`. Returns whether a
        file was deleted.
        """
        path = self.path(sha256)
        doomed = path.with_name(f".{sha256}.{os.getpid()}.doomed")
        # Out of the way first: who stores the file from now on writes a new one. Who did so just
        # before has made this one young, and gets it back.
        try:
            if not self._is_old(path, older_than_s):
                return False
            path.rename(doomed)
        except FileNotFoundError:
            return False
        if not self._is_old(doomed, older_than_s):
            doomed.rename(path)
            return False
        doomed.unlink()
        return True

    def sweep(self, known: Callable[[list[str]], set[str]], *, older_than_s: float) -> int:
        """Delete old files that nobody knows, as interrupted work leaves them.

        `known` says which of these names have a row. Returns how many files were deleted.
        """
        deleted = 0
        batch: list[str] = []
        for path in self._files():
            if path.name.startswith("."):
                deleted += _delete_remains(path, older_than_s)
            elif _NAME.fullmatch(path.name):
                batch.append(path.name)
            if len(batch) == SWEEP_BATCH:
                deleted += self._sweep(batch, known, older_than_s)
                batch = []
        return deleted + self._sweep(batch, known, older_than_s)

    def _is_old(self, path: Path, older_than_s: float) -> bool:
        return _age_s(path) >= older_than_s

    def _files(self) -> Iterator[Path]:
        if self.folder.is_dir():
            for folder in sorted(self.folder.iterdir()):
                if folder.is_dir():
                    yield from sorted(folder.iterdir())

    def _sweep(
        self, names: list[str], known: Callable[[list[str]], set[str]], older_than_s: float
    ) -> int:
        orphans = set(names) - known(names) if names else set()
        return sum(self.delete(name, older_than_s=older_than_s) for name in orphans)


def _rejuvenate(path: Path) -> bool:
    """Make a file young that is already there; False when it is not."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _write(path: Path, data: bytes) -> None:
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_folder(path.parent.parent)
    part = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete_remains(path: Path, older_than_s: float) -> int:
    """Delete what a killed process left half written or half deleted."""
    try:
        old = _age_s(path) >= older_than_s
    except FileNotFoundError:  # it was just completed
        return 0
    if old:
        path.unlink(missing_ok=True)
    return int(old)


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime
