"""What is deleted vanishes at once, by one rename to a hidden name, and is deleted there.

A removal that is killed leaves the rest there, and the next command deletes that. It need not know
whether the removal still goes on: both want the same.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

_MARK = ".removed-"


def bury(folder: Path, stage: Path) -> None:
    """Delete a folder; `stage` is one on the same disk. Raises `OSError`."""
    grave = stage / f"{_MARK}{folder.name}-{os.getpid()}"
    stage.mkdir(exist_ok=True)
    folder.rename(grave)
    _delete(grave)


def finish_removals(stage: Path) -> None:
    """Delete what removals left that were killed. What cannot be deleted stays: see `left_over`."""
    for grave in left_over(stage):
        with suppress(OSError):
            _delete(grave)


def left_over(stage: Path) -> list[Path]:
    """What removals have not deleted yet."""
    return sorted(stage.glob(f"{_MARK}*"))


def _delete(grave: Path) -> None:
    while grave.exists():
        with suppress(FileNotFoundError):  # another command was faster
            shutil.rmtree(grave)
