"""The `bench` command: picks benchmarks, gives each an empty folder, shows what they report."""

import tempfile
from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from genserve import logs
from genserve.cli.options import AsJson
from genserve.errors import ConfigError


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
        list[Benchmark] | None, typer.Argument(help="What to measure.", metavar="[BENCHMARK...]")
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="On the disk to measure; a folder is made in it and removed.")
    ] = Path(),
    size: Annotated[
        int | None, typer.Option(min=1, help="How many tasks, requests or repetitions.")
    ] = None,
    synthetic: Annotated[
        str | None,
        typer.Option(
            help="Instead of benchmarks: a full-size model with made-up weights, as flux1-dev, "
            "beside diffusers alone.",
            metavar="MODEL",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="With --synthetic.")] = None,
    width: Annotated[int | None, typer.Option(min=16, help="With --synthetic, in pixels.")] = None,
    height: Annotated[int | None, typer.Option(min=16, help="With --synthetic, in pixels.")] = None,
    runs: Annotated[
        int | None, typer.Option(min=1, help="With --synthetic: pictures to take the median of.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="With --synthetic: auto, cpu, or the number of a GPU.")
    ] = None,
    shrink: Annotated[
        int | None,
        typer.Option(help="With --synthetic: divide layers and widths, for tests.", hidden=True),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure this machine: queue, dispatch, http, latency, requeue, startup, memory, lora,
    preview, or all; or, with --synthetic, a full-size model that nobody needs to download.

    Everything runs in a temporary folder with the fake family, lora and preview with the shipped
    model; a running server is not touched, but shares the cores.
    """
    logs.configure("error")
    values = {"steps": steps, "width": width, "height": height, "runs": runs, "device": device}
    given = {
        name: value for name, value in {**values, "shrink": shrink}.items() if value is not None
    }
    _check_usage(names or [], synthetic, given, sized=size is not None)
    with tempfile.TemporaryDirectory(prefix="genserve-bench-", dir=folder.absolute()) as scratch:
        if synthetic is not None:
            from genserve.cli.bench.synthetic import Asked, run

            asked: Any = {"name": synthetic, **given}
            run(Asked(**asked), Path(scratch), as_json=as_json)
        else:
            _measure(names or [], size, Path(scratch), as_json=as_json)


def _check_usage(
    names: Sequence[Benchmark], synthetic: str | None, given: Mapping[str, object], *, sized: bool
) -> None:
    """Nothing that was asked for is passed over in silence. Raises `ConfigError`."""
    if synthetic is None:
        if given:
            options = ", ".join(f"--{name}" for name in given)
            raise ConfigError(problem=f"{options}: only with --synthetic MODEL")
        if not names:
            raise ConfigError(
                problem="name a benchmark, as in `genserve bench all`, or --synthetic"
            )
    elif names or sized:
        wrong = [*(name.value for name in names), *(["--size"] if sized else [])]
        raise ConfigError(problem=f"--synthetic goes alone, not with {', '.join(wrong)}")


def _measure(names: Sequence[Benchmark], size: int | None, scratch: Path, *, as_json: bool) -> None:
    from genserve.cli.bench.disk import fsync_ms
    from genserve.cli.bench.report import show

    chosen = list(DEFAULT_SIZE) if Benchmark.ALL in names else list(dict.fromkeys(names))
    reports = []
    for name in chosen:
        own = scratch / name
        own.mkdir()
        typer.echo(f"{name} …", err=True)
        module: Any = import_module(f"genserve.cli.bench.{name}")
        reports.append(module.measure(own, size or DEFAULT_SIZE[name]))
    show(reports, fsync_ms(scratch), as_json=as_json)
