"""A GenServe server in a process of its own, for as long as it is measured."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from genserve.config_sources import inherited_environment
from genserve.errors import CommandFailed
from genserve.workers.process import child_environment

READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
READY = re.compile(r"ready at (http://\S+)")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its address, process id, and how long it took to become ready."""

    url: str
    pid: int
    ready_s: float


def write_settings(folder: Path, settings: Mapping[str, Any]) -> Path:
    """A config.yaml in `folder`."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(dict(settings)), encoding="utf-8")
    return path


@contextmanager
def serving(folder: Path, settings: Mapping[str, Any]) -> Iterator[Server]:
    """Run `genserve serve` with `settings` and `folder`/data until the block ends.

    The user's own settings and keys are kept out of its environment. Raises `CommandFailed` when it
    does not become ready.
    """
    config = write_settings(folder, settings)
    command = [sys.executable, "-m", "genserve", "serve", "--port", "0"]
    log = (folder / "server.log").open("w", encoding="utf-8")
    started = time.perf_counter()
    with (
        log,
        subprocess.Popen(
            [*command, "--config", str(config), "--data-dir", str(folder / "data")],
            cwd=folder,
            env=child_environment(inherited_environment()),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            url = _wait_until_ready(process, folder)
            yield Server(url, process.pid, time.perf_counter() - started)
        finally:
            _stop(process)


def cpu_s(pid: int) -> float:
    """Seconds of processor time that the process has used, its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])  # proc(5), counted from after the name
    return (user + system) / os.sysconf("SC_CLK_TCK")


def _wait_until_ready(process: subprocess.Popen[str], folder: Path) -> str:
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            line = None
        if line is None:
            log = (folder / "server.log").read_text(encoding="utf-8").strip().splitlines()
            said = log[-1] if log else "it said nothing"
            raise CommandFailed(problem=f"the server did not become ready: {said}")
        if match := READY.search(line):
            return match.group(1)


def _read(process: subprocess.Popen[str], lines: "queue.Queue[str | None]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
