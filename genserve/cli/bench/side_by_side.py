"""What `genserve bench --synthetic` reports: the figures of both sides, as a table or as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import typer

from genserve.cli.bench.report import cores
from genserve.cli.bench.side import Side
from genserve.cli.output import show_json, show_rows
from genserve.domain.request import GenerationRequest
from genserve.errors import CommandFailed
from genserve.workers.devices import Device

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both sides; diffusers' is None where its pipeline failed."""

    name: str
    unit: str
    genserve: float
    diffusers: float | None

    @property
    def ratio(self) -> float | None:
        """GenServe's over diffusers'; None where noise or failure left one of them nothing."""
        if self.diffusers is None or self.diffusers <= 0 or self.genserve <= 0:
            return None
        return self.genserve / self.diffusers


@dataclass(frozen=True, slots=True)
class Compared:
    """Both sides, and what they did. `weights_bytes` are the model's, as they were counted."""

    model: str
    request: GenerationRequest
    device: Device
    ours: Side
    theirs: Side | CommandFailed
    weights_bytes: int
    shrink: int

    def rows(self) -> list[Row]:
        """Every figure."""
        theirs = self.theirs if isinstance(self.theirs, Side) else None
        names = (
            ("cold load", "s"),
            ("first picture", "s"),
            (f"a picture, median of {len(self.ours.whole)}", "s"),
            ("a picture of one step", "s"),
            ("a step", "s"),
            ("weights, counted", "MiB"),
            ("peak memory, load and first picture", "MiB"),
            ("peak memory, drawing", "MiB"),
        )
        ours = self._figures(self.ours)
        others: Sequence[float | None] = [None] * len(ours)
        if theirs is not None:
            others = self._figures(theirs)
        return [
            Row(*name, one, other) for name, one, other in zip(names, ours, others, strict=True)
        ]

    def _figures(self, side: Side) -> list[float]:
        return [
            side.load_s,
            side.first_s,
            side.picture_s,
            side.short_s,
            side.step_s,
            self.weights_bytes / MIB,
            side.loading_peak_bytes / MIB,
            side.peak_bytes / MIB,
        ]

    def notes(self) -> list[str]:
        """What one must know to read the figures."""
        notes = [
            "the weights are made up; a cold load of real ones reads them from the disk",
            "GenServe: from giving the task to the worker to the stored PNG;"
            " diffusers: its pipeline's call alone, to a picture in memory",
        ]
        if self.shrink > 1:
            notes.append(f"the model is shrunk by {self.shrink}: these are not its figures")
        if self.device.kind == "cpu":
            notes.append("peak memory is the worker process's, since its start")
        if isinstance(self.theirs, CommandFailed):
            notes.append(f"diffusers failed: {self.theirs.detail('en')}")
        if self.ours.degraded:
            rungs = ", ".join(sorted(self.ours.degraded))
            notes.append(f"memory ran out, so GenServe drew otherwise: {rungs}")
        return notes

    def show(self, *, as_json: bool) -> None:
        """Print it."""
        size = f"{self.request.width}x{self.request.height}"
        done = f"{self.request.mode}, {size}, {self.request.steps} steps"
        software = {name: version(name) for name in ("torch", "diffusers", "transformers")}
        if as_json:
            self._show_json(done, software)
            return
        typer.echo(f"\nsynthetic {self.model}: {done}\n")
        _show_table(self.rows())
        typer.echo("")
        for note in self.notes():
            typer.echo(f"  {note}")
        versions = ", ".join(f"{name} {number}" for name, number in software.items())
        typer.echo(f"\nmachine: {cores()} cores, {self.device.full_name}, {versions}")

    def _show_json(self, done: str, software: dict[str, str]) -> None:
        """In the form of the other benchmarks, each figure with both sides."""
        figures = [
            {
                "name": row.name,
                "unit": row.unit,
                "genserve": row.genserve,
                "diffusers": row.diffusers,
                "ratio": row.ratio,
            }
            for row in self.rows()
        ]
        about = {"benchmark": "synthetic", "model": self.model, "done": done}
        measured = {**about, "notes": self.notes(), "figures": figures}
        machine = {
            "cores": cores(),
            "device": self.device.full_name,
            "kind": self.device.kind,
            "memory_mib": self.device.memory_bytes // MIB,
            "software": software,
        }
        show_json({"machine": machine, "benchmarks": [measured]})


def _show_table(rows: Sequence[Row]) -> None:
    table = [
        {
            "figure": row.name,
            "GenServe": f"{row.genserve:,.5g}",
            "diffusers": None if row.diffusers is None else f"{row.diffusers:,.5g}",
            "unit": row.unit,
            "ratio": None if row.ratio is None else f"{row.ratio:.3f}",
        }
        for row in rows
    ]
    show_rows(("figure", "GenServe", "diffusers", "unit", "ratio"), table, as_json=False)
