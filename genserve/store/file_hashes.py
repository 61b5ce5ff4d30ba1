"""The sha256 of large files, computed once: remembered by path, size and time of change.

The memory is a JSON file in the data folder. Losing it costs time, nothing else; so it is read and
written without complaint, and at once or not at all.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any


class FileHashes:
    """Remembers hashes between runs. `memory` None: within this object only."""

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known = _read(memory)
        self._asked: dict[str, list[Any]] = {}

    def sha256(self, path: Path) -> str:
        """The hash of the file's content, in hexadecimal. Raises `OSError`."""
        stat = path.stat()
        key, stamp = str(path.resolve()), [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(key)
        if isinstance(known, list) and known[:2] == stamp and len(known) == 3:
            digest = str(known[2])
        else:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._asked[key] = [*stamp, digest]
        return digest

    def save(self) -> None:
        """Remember what was asked for since it was made, and forget the rest."""
        if self._memory is None or self._asked == self._known:
            return
        unfinished = self._memory.with_name(f".{self._memory.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # no folder yet, or no room: it is hashed again
            unfinished.write_text(json.dumps(self._asked, indent=1), encoding="utf-8")
            unfinished.replace(self._memory)


def _read(memory: Path | None) -> dict[str, Any]:
    if memory is None:
        return {}
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
