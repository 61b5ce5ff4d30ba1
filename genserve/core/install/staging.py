"""Where a model lies while it is fetched: hidden below the models folder, where nobody looks.

    models/.pulls/NAME/lock        held by the command that fetches it
    models/.pulls/NAME/pull.json   what each file is to be
    models/.pulls/NAME/NAME/…      the files, as they will lie in models/NAME

A command that was killed leaves it as it is, and the next one goes on with it. One rename puts the
finished folder into its place.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from genserve.core.install.graves import finish_removals
from genserve.core.install.names import checked_name
from genserve.errors import AlreadyInstalled, PullInProgress

STAGE = ".pulls"
NOTES = Path(".genserve/source.json")
"""In an installed folder: where it came from. Hidden, so no part of the model."""


class Staging:
    """One model under way. Make it with `open_staging`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.files = folder / name
        """What becomes the model's folder."""
        self._folder = folder
        self._record = folder / "pull.json"
        self._replaced = folder / "replaced"
        """The model in whose place this one comes."""
        self._removed = False

    def keep(self, wanted: Mapping[str, str]) -> None:
        """Throw away what is not one of these files: path → a text that stands for its content."""
        before = self._recorded()
        for path in [*self.files.rglob("*")] if self.files.exists() else []:
            name = str(path.relative_to(self.files))
            name = name.removesuffix(".part").removesuffix(".tag")
            if path.is_file() and (name not in wanted or before.get(name) != wanted[name]):
                path.unlink()
        self.files.mkdir(parents=True, exist_ok=True)
        unfinished = self._record.with_suffix(".new")
        unfinished.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        unfinished.replace(self._record)

    def missing_bytes(self, sizes: Mapping[str, int]) -> int:
        """How much of these files is still to come."""
        missing = 0
        for name, size in sizes.items():
            path = self.files / name
            part = path.with_name(f"{path.name}.part")
            have = next((one.stat().st_size for one in (path, part) if one.exists()), 0)
            missing += max(0, size - have)
        return missing

    def whole_bytes(self, sizes: Mapping[str, int]) -> int:
        """How much of these files is there in whole files."""
        return sum(size for name, size in sizes.items() if (self.files / name).exists())

    def note(self, notes: dict[str, Any]) -> None:
        """Write down beside the files where they came from."""
        path = self.files / NOTES
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(notes, indent=1), encoding="utf-8")

    def install_folder(self, target: Path, *, replace: bool) -> None:
        """Make the files the folder `target`. Raises `AlreadyInstalled`, `OSError`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        _sync(self.files)
        if self._replaced.exists() and not target.exists():
            self._replaced.rename(target)  # an earlier command was killed between its two renames
        shutil.rmtree(self._replaced, ignore_errors=True)
        if replace and target.exists():
            target.rename(self._replaced)
        try:
            self.files.rename(target)  # also onto an empty folder
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise AlreadyInstalled(path=str(target)) from None
            raise
        _sync(target.parent)

    def install_file(self, name: str, target: Path, *, replace: bool) -> None:
        """Make one of the files the file `target`, maybe on another disk. Raises as above."""
        if target.exists() and not replace:
            raise AlreadyInstalled(path=str(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.part")
        shutil.move(self.files / name, beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(target)
        _sync(target.parent)

    def remove(self) -> None:
        """It is done: leave nothing."""
        self._removed = True
        shutil.rmtree(self._folder, ignore_errors=True)

    def discard(self) -> None:
        """What came is of no use: leave nothing, but a model that lost its place to a kill."""
        if self._replaced.exists():
            shutil.rmtree(self.files, ignore_errors=True)
        else:
            self.remove()

    def leave(self) -> None:
        """Keep what has come for the next command to go on with. Where nothing has, as of what its
        first bytes gave away as no weights, it is no unfinished pull."""
        files = (path for path in self.files.rglob("*") if path.is_file())
        came = any(path.stat().st_size for path in files if path.suffix != ".tag")
        if not self._removed and not came:  # once it is removed, it may be another command's
            self.discard()

    def _recorded(self) -> dict[str, str]:
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}


@contextmanager
def open_staging(models_dir: Path, name: str) -> Iterator[Staging]:
    """The model's staging folder, which no other command has.

    Raises `PullInProgress`, `BadModelName`, `OSError`.
    """
    folder = models_dir / STAGE / checked_name(name)
    finish_removals(models_dir / STAGE)
    lock = _lock(folder / "lock", name)
    staging = Staging(folder, name)
    try:
        yield staging
    finally:
        staging.leave()
        lock.close()


def unfinished(models_dir: Path) -> list[tuple[str, int]]:
    """The pulls that were cut short, or still go on: name, and the bytes that have come."""
    folder = models_dir / STAGE
    if not folder.is_dir():
        return []
    return [
        (one.name, sum(file.stat().st_size for file in one.rglob("*") if file.is_file()))
        for one in sorted(folder.iterdir())
        if one.is_dir() and not one.name.startswith(".")
    ]


def _lock(path: Path, name: str) -> IO[str]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise PullInProgress(name=name) from None
        if path.exists() and path.stat().st_ino == os.fstat(lock.fileno()).st_ino:
            return lock
        lock.close()  # whoever had it was just done and has removed it


def _sync(folder: Path) -> None:
    """Have a folder's entries on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
