"""The folder that holds everything the server writes, and the lock that one server holds on it."""

import fcntl
import os
from pathlib import Path

from genserve.errors import DataFolderInUse, StartupError

SUBFOLDERS = ("blobs", "secrets", "logs", "run")
OWNER_ONLY = 0o700


class DataFolder:
    """An opened data folder; `close` lets another process have it.

    The kernel holds the lock for this process: it ends with it, however that ends.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def open(cls, path: Path) -> "DataFolder":
        """Make the folder and its sub-folders, readable by their owner alone, and lock it.

        Raises `DataFolderInUse` when another process has it, `StartupError` when it cannot be
        written.
        """
        try:
            for folder in (path, *(path / name for name in SUBFOLDERS)):
                folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
            descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise StartupError(problem=f"data_dir {path} cannot be used: {reason}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise DataFolderInUse(folder=str(path)) from error
        return cls(path, descriptor)

    def close(self) -> None:
        """Give the folder up."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "DataFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
