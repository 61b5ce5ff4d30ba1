"""Shows how far a pull is: bars on a terminal, elsewhere a line for each finished file."""

import threading
from types import TracebackType
from typing import Self

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from genserve.domain.sizes import in_words

TOTAL = "all"


class PullProgress:
    """A `Watcher` that writes to stderr. Use it as a context manager."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._lock = threading.Lock()
        self._of_file: dict[str, TaskID] = {}
        self._total = self._bars.add_task(TOTAL, total=None)
        self._quiet = console.is_terminal

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def begin(self, total: int, have: int) -> None:
        """So much is wanted, and so much of it is there already."""
        self._bars.update(self._total, total=total, completed=have)
        if have > 1_000_000:  # more than the small files that a pull reads first
            typer.echo(f"going on: {in_words(have)} are there already", err=True)

    def advance(self, path: str, size: int | None, came: int) -> None:
        """So many bytes of a file came."""
        with self._lock:
            if path not in self._of_file:
                self._of_file[path] = self._bars.add_task(path, total=size)
        self._bars.advance(self._of_file[path], came)
        self._bars.advance(self._total, came)

    def finished(self, path: str, size: int) -> None:
        """A file is whole."""
        with self._lock:
            bar = self._of_file.pop(path, None)
        if bar is not None:
            self._bars.remove_task(bar)
        if not self._quiet:
            typer.echo(f"{path} ({in_words(size)})", err=True)
