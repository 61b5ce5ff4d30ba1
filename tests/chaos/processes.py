"""Processes of a running server, as Linux tells them."""

import os
import signal
import time
from pathlib import Path

WORKER = "genserve.workers.child"


def descendants(pid: int) -> list[int]:
    """Every living process below `pid`."""
    found: list[int] = []
    pending = [pid]
    while pending:
        for task in _glob(f"/proc/{pending.pop()}/task"):
            try:
                children = (task / "children").read_text().split()
            except OSError:  # the thread has ended meanwhile
                continue
            found += map(int, children)
            pending += map(int, children)
    return found


def workers(server_pid: int) -> list[int]:
    """The worker processes of a server."""
    return [pid for pid in descendants(server_pid) if WORKER in command_line(pid)]


def command_line(pid: int) -> str:
    """The command line of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def kill(pid: int) -> None:
    """SIGKILL, if the process still exists."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def wait_until_gone(pids: list[int], timeout_s: float) -> list[int]:
    """Wait for processes to end; returns those that did not."""
    deadline = time.monotonic() + timeout_s
    left = pids
    while left and time.monotonic() < deadline:
        left = [pid for pid in left if alive(pid)]
        time.sleep(0.02)
    return left


def _glob(folder: str) -> list[Path]:
    try:
        return list(Path(folder).iterdir())
    except OSError:
        return []
