"""Fetches several files beside each other into a staging folder."""

from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Protocol

from genserve.core.install.staging import Staging
from genserve.outbound.transfer import Remote, Transfer

AT_ONCE = 4
"""One connection rarely fills a line."""


class Watcher(Protocol):
    """Is told how far it is, from several threads. Sizes in bytes; None: nobody knows yet."""

    def begin(self, total: int, have: int) -> None:
        """So much is wanted, and so much of it lies there from an earlier time."""
        ...

    def advance(self, path: str, size: int | None, came: int) -> None:
        """So many bytes of a file came; a negative number did not come after all."""
        ...

    def finished(self, path: str, size: int) -> None:
        """A file is whole and verified."""
        ...


def fetch_all(
    files: Iterable[tuple[str, Remote]], staging: Staging, transfer: Transfer, watcher: Watcher
) -> None:
    """Have each file at its path; one that is there already is a good one.

    The first that fails ends the others. Raises what `Transfer.fetch` raises.
    """

    def fetch(path: str, remote: Remote) -> None:
        target = staging.files / path
        target.parent.mkdir(parents=True, exist_ok=True)
        transfer.fetch(remote, target, lambda came: watcher.advance(path, remote.size, came))
        watcher.finished(path, target.stat().st_size)

    missing = [(path, remote) for path, remote in files if not (staging.files / path).exists()]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pull") as threads:
        fetching = [threads.submit(fetch, path, remote) for path, remote in missing]
        try:
            done, going_on = wait(fetching, return_when=FIRST_EXCEPTION)
        except BaseException:  # Ctrl-C: the threads must not go on for hours
            transfer.stop.set()
            threads.shutdown(cancel_futures=True)
            raise
        if going_on:
            transfer.stop.set()
            threads.shutdown(cancel_futures=True)
    for one in done:
        one.result()
