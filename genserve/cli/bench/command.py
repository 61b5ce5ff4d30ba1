"""The `bench` command: picks benchmarks, gives each an empty folder, shows what they report."""

import tempfile
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from genserve import logs
from genserve.cli.options import AsJson


class Benchmark(StrEnum):
    """The benchmarks; each is the module of the same name and has a function `measure`."""

    QUEUE = "queue"
    DISPATCH = "dispatch"
    HTTP = "http"
    LATENCY = "latency"
    REQUEUE = "requeue"
    STARTUP = "startup"
    MEMORY = "memory"
    LORA = "lora"
    PREVIEW = "preview"
    ALL = "all"


DEFAULT_SIZE = {
    Benchmark.QUEUE: 20_000,
    Benchmark.DISPATCH: 100_000,
    Benchmark.HTTP: 8_000,
    Benchmark.LATENCY: 500,
    Benchmark.REQUEUE: 30,
    Benchmark.STARTUP: 5,
    Benchmark.MEMORY: 1,
    Benchmark.LORA: 500,
    Benchmark.PREVIEW: 20,
}
"""How much each does: tasks, queued tasks, requests, requests, deaths, starts, servers, changes,
pictures."""


def bench(
    names: Annotated[
        list[Benchmark], typer.Argument(help="What to measure.", metavar="BENCHMARK...")
    ],
    folder: Annotated[
        Path, typer.Option(help="On the disk to measure; a folder is made in it and removed.")
    ] = Path(),
    size: Annotated[
        int | None, typer.Option(min=1, help="How many tasks, requests or repetitions.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure this machine: queue, dispatch, http, latency, requeue, startup, memory, lora,
    preview, or all.

    Everything runs in a temporary folder with the fake family, lora and preview with the shipped
    model; a running server is not touched, but shares the cores.
    """
    logs.configure("error")

    from genserve.cli.bench.disk import fsync_ms
    from genserve.cli.bench.report import show

    chosen = list(DEFAULT_SIZE) if Benchmark.ALL in names else list(dict.fromkeys(names))
    with tempfile.TemporaryDirectory(prefix="genserve-bench-", dir=folder.absolute()) as scratch:
        reports = []
        for name in chosen:
            own = Path(scratch) / name
            own.mkdir()
            typer.echo(f"{name} …", err=True)
            module: Any = import_module(f"genserve.cli.bench.{name}")
            reports.append(module.measure(own, size or DEFAULT_SIZE[name]))
        show(reports, fsync_ms(Path(scratch)), as_json=as_json)
