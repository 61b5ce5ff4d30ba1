"""How much memory an idle server takes: the server process alone, without its workers."""

import time
from pathlib import Path

import httpx2

from genserve.cli.bench.process import serving
from genserve.cli.bench.report import Figure, Report
from genserve.cli.bench.settings import settings
from genserve.config import DEFAULT_API_KEY

GOAL_MB = 200.0
SETTLE_S = 1.0
WARM_UP = 20
"""Requests before the measurement, so that what is loaded on first use counts."""


def measure(folder: Path, size: int) -> Report:
    """The largest of `size` servers' resident memory once they are ready, warm and idle."""
    found = []
    for _ in range(size):
        with serving(folder, settings()) as server:
            with httpx2.Client(headers={"X-API-Key": DEFAULT_API_KEY}, trust_env=False) as client:
                for _ in range(WARM_UP):
                    client.get(f"{server.url}/status").raise_for_status()
            time.sleep(SETTLE_S)
            found.append(resident_mb(server.pid))
    return Report(
        benchmark="memory",
        done=f"{size} idle servers, after {WARM_UP} requests",
        figures=[Figure("server process, resident", max(found), "MB", at_most=GOAL_MB)],
    )


def resident_mb(pid: int) -> float:
    """A process's resident memory in megabytes (10⁶ bytes), as Linux tells it."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(pid)
