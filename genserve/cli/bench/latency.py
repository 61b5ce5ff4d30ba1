"""What the whole way costs: HTTP, key, queue, database, process, file, over drawing directly."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from genserve.cli.bench import load
from genserve.cli.bench.disk import fsync_ms
from genserve.cli.bench.keys import make_keys
from genserve.cli.bench.process import serving
from genserve.cli.bench.report import Figure, Report, percentile
from genserve.cli.bench.settings import MODEL, settings
from genserve.domain.request import GenerationRequest
from genserve.pipelines import images
from genserve.pipelines.base import Stage
from genserve.pipelines.fake import Fake

WARM_UP = 20
PER_KEY = 90
"""Below the shipped limit of 100 requests a minute."""
ASKED = {"prompt": "a red cat", "width": 256, "height": 256, "num_inference_steps": 4}
FSYNCS = 4
ALLOWED_MS = {0.5: 8.0, 0.99: 20.0}
"""What the way may cost beside its syncs, at p50 and p99."""


def measure(folder: Path, size: int) -> Report:
    """Draw `size` pictures one after another, directly and through the server."""
    direct_ms = _directly(size)
    fsync = dict(zip(ALLOWED_MS, fsync_ms(folder), strict=True))
    keys = make_keys(folder / "data", (size + WARM_UP) // PER_KEY + 1)
    body = json.dumps({**ASKED, "model_id": MODEL}).encode()
    with serving(folder, settings()) as server:
        prepared = [load.post(server.url, "/generate", k, body, "Accept: image/png") for k in keys]
        requests = itertools.cycle(prepared)
        _send(server.url, itertools.islice(requests, WARM_UP))
        outcome = _send(server.url, itertools.islice(requests, size))
    figures = [Figure("failed", size - outcome.statuses[200], "requests", at_most=0)]
    for share, allowed_ms in ALLOWED_MS.items():
        name = f"p{share * 100:.0f}"
        whole = percentile(outcome.latencies_s, share) * 1e3
        direct = percentile(direct_ms, share)
        goal = FSYNCS * fsync[share] + allowed_ms
        figures += [
            Figure(f"directly, {name}", direct, "ms"),
            Figure(f"through the server, {name}", whole, "ms"),
            Figure(f"added, {name}", whole - direct, "ms", at_most=goal),
        ]
    return Report(
        benchmark="latency",
        done=f"{size} synchronous POST /generate, one at a time",
        figures=figures,
    )


class _NoHook:
    attempt = 1

    def stage(self, stage: Stage) -> None:
        """Nobody listens."""

    def step(self, done: int, total: int) -> None:
        """Nobody listens."""

    def preview(self, make: Callable[[], Image.Image]) -> None:
        """Nobody looks."""


def _directly(size: int) -> list[float]:
    """Milliseconds of each picture, drawn and encoded in this process."""
    request = GenerationRequest(
        model=MODEL,
        prompt=str(ASKED["prompt"]),
        width=ASKED["width"],
        height=ASKED["height"],
        steps=ASKED["num_inference_steps"],
    )
    took_ms = []
    for _ in range(size):
        began_at = time.perf_counter()
        image = Fake().generate(request, 42, {}, _NoHook())
        images.encode(image, request.output, "", "")
        took_ms.append((time.perf_counter() - began_at) * 1e3)
    return took_ms


def _send(url: str, requests: "itertools.islice[bytes]") -> load.Outcome:
    return asyncio.run(load.send_all(url, requests, connections=1))
