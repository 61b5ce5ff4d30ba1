"""`genserve serve` in a process of its own, as its tests need it: started, watched, signalled."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from tests.cli.command import environment, write_config

READY_TIMEOUT_S = 60
READY = re.compile(r"ready at (http://\S+)")


class Serve:
    """A running server. Its log is `log_lines`, what it printed is `printed`."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        self.folder = folder
        self._log = (folder / "serve.log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "genserve", "serve", "--port", "0", *arguments],
            cwd=folder,
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.printed = ""

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def until_ready(self) -> "Serve":
        while not READY.search(self.printed):
            self._take(READY_TIMEOUT_S)
        while not self.printed.endswith("cat.png\n"):
            self._take(READY_TIMEOUT_S)
        return self

    def _take(self, timeout_s: float) -> None:
        line = self._lines.get(timeout=timeout_s)
        assert line is not None, self.log()
        self.printed += line

    @property
    def url(self) -> str:
        found = READY.search(self.printed)
        assert found
        return found.group(1)

    def log(self) -> str:
        return (self.folder / "serve.log").read_text()

    def client(self, key: str = "genserve-default-key-2024") -> httpx2.Client:
        return httpx2.Client(
            base_url=self.url, headers={"X-API-Key": key}, trust_env=False, timeout=60
        )

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def wait(self, timeout_s: float = 60) -> int:
        return self.process.wait(timeout_s)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


@contextmanager
def serve(
    folder: Path, settings: dict[str, Any], *arguments: str, **variables: str
) -> Iterator[Serve]:
    """A server that is ready; killed at the end if it still runs."""
    write_config(folder, settings)
    server = Serve(folder, *arguments, **variables)
    try:
        yield server.until_ready()
    finally:
        server.close()


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that still live."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in listed.split()]


def wait_until(condition: Any, timeout_s: float = 30) -> None:
    """Until `condition()` is true; an error when it does not become so."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.05)
