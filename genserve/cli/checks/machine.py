"""The machine: Python, cores, memory, and the disk under the data folder."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from genserve.cli.checks.finding import Finding, note, ok, problem
from genserve.config import Config

OLDEST_PYTHON = (3, 11)
ROOM_GIB = 1.0
"""Below this, a few large uploads fill the disk."""
GIB = 1024**3


def check(config: Config) -> Iterator[Finding]:
    """Python, the machine, the data folder and its disk."""
    yield _python()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    yield ok("machine", f"{len(os.sched_getaffinity(0))} cores, {memory:.1f} GiB of memory")
    yield _disk(config)


def _python() -> Finding:
    version = platform.python_version()
    if version_tuple(version) < OLDEST_PYTHON:
        return problem("python", version, "GenServe needs Python 3.11 or newer")
    return ok("python", f"{version} at {sys.executable}")


def version_tuple(version: str) -> tuple[int, ...]:
    """The numbers of a version, as (3, 11, 7)."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _disk(config: Config) -> Finding:
    folder = config.data_dir.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return problem("data folder", f"{existing} cannot be written to", _elsewhere(existing))
    free = shutil.disk_usage(existing).free / GIB
    found = f"{folder}, {free:.1f} GiB free"
    if free < ROOM_GIB:
        return problem("data folder", found, "free some space, or move the folder with --data-dir")
    if free < config.retention.max_gib:
        return note(
            "data folder",
            found,
            f"retention.max_gib allows {config.retention.max_gib:g} GiB of pictures: lower it",
        )
    return ok("data folder", found)


def _elsewhere(folder: Path) -> str:
    return f"give this user the right to write to {folder}, or choose another with --data-dir"
