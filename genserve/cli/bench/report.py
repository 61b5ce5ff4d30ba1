"""What a benchmark reports, and how it is shown beside the machine's own figures."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import typer

from genserve.cli.output import show_json


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. `goal` is what it should be at most, or at least."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.at_most is not None:
            return self.value <= self.at_most
        if self.at_least is not None:
            return self.value >= self.at_least
        return None

    def __str__(self) -> str:
        text = f"{self.name:34}{self.value:>12,.5g} {self.unit}"
        if self.reached is None:
            return text
        goal = f"≤ {self.at_most:,.4g}" if self.at_most is not None else f"≥ {self.at_least:,.4g}"
        return f"{text:54} goal {goal}: {'reached' if self.reached else 'MISSED'}"


@dataclass(frozen=True, slots=True)
class Report:
    """A benchmark's figures, and what it did, in words."""

    benchmark: str
    figures: Sequence[Figure]
    done: str = ""
    notes: Sequence[str] = field(default_factory=tuple)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the sorted values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0))


def show(reports: Sequence[Report], fsync_ms: tuple[float, float], *, as_json: bool) -> None:
    """Print the reports with the machine's fsync p50 and p99 in milliseconds and its cores."""
    p50, p99 = fsync_ms
    if as_json:
        show_json(
            {
                "machine": {"cores": cores(), "fsync_p50_ms": p50, "fsync_p99_ms": p99},
                "benchmarks": [_plain(report) for report in reports],
            }
        )
        return
    for report in reports:
        typer.echo(f"\n{report.benchmark}: {report.done}")
        for figure in report.figures:
            typer.echo(f"  {figure}")
        for note in report.notes:
            typer.echo(f"  {note}")
    typer.echo(f"\nmachine: {cores()} cores, fsync p50 {p50:.2f} ms, p99 {p99:.2f} ms")


def _plain(report: Report) -> dict[str, Any]:
    return {
        "benchmark": report.benchmark,
        "done": report.done,
        "notes": list(report.notes),
        "figures": [
            {
                "name": figure.name,
                "value": figure.value,
                "unit": figure.unit,
                "at_most": figure.at_most,
                "at_least": figure.at_least,
                "reached": figure.reached,
            }
            for figure in report.figures
        ],
    }
