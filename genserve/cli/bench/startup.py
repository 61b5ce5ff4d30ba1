"""How long `genserve serve` takes from the shell to ready."""

from pathlib import Path

from genserve.cli.bench.process import serving
from genserve.cli.bench.report import Figure, Report, percentile
from genserve.cli.bench.settings import settings

GOAL_S = 2.0


def measure(folder: Path, size: int) -> Report:
    """Start a server `size` times on the same data folder; the first start makes the database."""
    took = []
    for _ in range(size):
        with serving(folder, settings()) as server:
            took.append(server.ready_s)
    return Report(
        benchmark="startup",
        done=f"{size} starts of `genserve serve`, from the process's start to ready",
        figures=[
            Figure("first start (makes the database)", took[0], "s", at_most=GOAL_S),
            Figure("start, p50", percentile(took, 0.5), "s", at_most=GOAL_S),
            Figure("start, slowest", max(took), "s"),
        ],
    )
