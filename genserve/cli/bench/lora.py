"""What a change of LoRAs costs, against a picture of the shipped model, and what it leaves behind.

Ten LoRAs of random numbers for every attention layer of the shipped Flux model, in turns: each task
wears another set than the one before, so each merges into the worker's weights anew.
"""

import asyncio
import json
import os
import random
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop

from genserve.cli.bench.memory import resident_mb
from genserve.cli.bench.report import Figure, Report, percentile
from genserve.config import Config
from genserve.core.runtime import Runtime
from genserve.domain.pool import WorkerState
from genserve.domain.request import GenerationRequest, LoraRef
from genserve.domain.task import Result
from genserve.errors import CommandFailed
from genserve.store.safetensors_header import read_header

MODELS = Path(__file__).resolve().parents[3] / "models"
MODEL = "tiny-flux-dev"
LORAS, RANK = 10, 8
LAYERS = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")
STEPS, SIDE, PICTURES, WARM_UP = 20, 128, 5, 100
GOAL_SHARE = 10.0
GOAL_GROWTH_MB = 32.0
READY_TIMEOUT_S = 120.0


def measure(folder: Path, size: int) -> Report:
    """Change LoRAs `size` times."""
    _write_loras(folder / "loras")
    config = Config.model_validate({"data_dir": folder / "data", **_settings(folder)})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        picture_s, changes_s, grown_mb = runner.run(_measure(config, size))
    picture, change = percentile(picture_s, 0.5), percentile(changes_s, 0.5)
    return Report(
        benchmark="lora",
        done=f"{size} changes among {LORAS} LoRAs of rank {RANK}, every attention layer of {MODEL}",
        figures=[
            Figure(f"a picture, {STEPS} steps, {SIDE}x{SIDE}, p50", picture * 1e3, "ms"),
            Figure("a change of LoRAs, p50", change * 1e3, "ms"),
            Figure("a change of LoRAs, p99", percentile(changes_s, 0.99) * 1e3, "ms"),
            Figure("change over picture", change / picture * 100, "%", at_most=GOAL_SHARE),
            Figure("worker's memory, grown by", grown_mb, "MB", at_most=GOAL_GROWTH_MB),
        ],
    )


def _settings(folder: Path) -> dict[str, Any]:
    """As config.yaml holds it."""
    model = {"family": "flux", "loras": True, "multiple_of": 16}
    return {
        "pool": {"devices": "cpu:1"},
        "models_dir": MODELS,
        "loras_dir": folder / "loras",
        "models": {MODEL: model},
    }


async def _measure(config: Config, size: int) -> tuple[list[float], list[float], float]:
    """Seconds of each picture, seconds of each change, and what the worker's memory grew by."""
    runtime = await Runtime.start(config, reread=lambda: config)
    try:
        await _ready(runtime)
        pictures = [await _draw(runtime, STEPS, ()) for _ in range(1 + PICTURES)]
        changes, before_mb = [], 0.0
        for change in range(-min(WARM_UP, size), size):
            if change == 0:
                before_mb = _worker_mb(runtime)
            name = f"lora{change % LORAS}"
            result = await _draw(runtime, 1, (LoraRef(name=name, weight=0.5),))
            if change >= 0:
                changes.append(result.stages_s["loras"])
        grown_mb = _worker_mb(runtime) - before_mb
        return [result.generation_s for result in pictures[1:]], changes, grown_mb
    finally:
        await runtime.stop(drain_s=0)


async def _ready(runtime: Runtime) -> None:
    async with asyncio.timeout(READY_TIMEOUT_S):
        while any(worker.state is not WorkerState.IDLE for worker in runtime.pool.workers()):
            await asyncio.sleep(0.05)


async def _draw(runtime: Runtime, steps: int, loras: tuple[LoraRef, ...]) -> Result:
    request = GenerationRequest(
        model=MODEL, prompt="a red cat", width=SIDE, height=SIDE, steps=steps, loras=loras
    )
    caller = runtime.keys.default_caller()
    task = (await runtime.service.submit(caller, request, dialect="native")).task
    ended = await runtime.service.wait(task.id)
    if ended.result is None:
        raise CommandFailed(problem=ended.error.told().detail("en") if ended.error else "no result")
    return ended.result


def _worker_mb(runtime: Runtime) -> float:
    (worker,) = runtime.pool.workers()
    return resident_mb(worker.pid or os.getpid())


def _write_loras(folder: Path) -> None:
    weights = MODELS / MODEL / "transformer" / "diffusion_pytorch_model.safetensors"
    if not weights.is_file():
        raise CommandFailed(problem=f"this benchmark needs the shipped model {MODEL}")
    shapes = read_header(weights).shapes
    chosen = {name: shape for name, shape in shapes.items() if name.endswith(LAYERS)}
    folder.mkdir()
    for number in range(LORAS):
        factors: dict[str, tuple[int, int]] = {}
        for name, (rows, columns) in chosen.items():
            layer = f"transformer.{name.removesuffix('.weight')}"
            factors[f"{layer}.lora_A.weight"] = (RANK, columns)
            factors[f"{layer}.lora_B.weight"] = (rows, RANK)
        _write(folder / f"lora{number}.safetensors", factors, random.Random(number))


def _write(path: Path, shapes: Mapping[str, tuple[int, int]], chance: random.Random) -> None:
    """A safetensors file of small random numbers."""
    header, numbers = {}, array("f")
    for name, (rows, columns) in shapes.items():
        begin = len(numbers) * numbers.itemsize
        numbers.extend(chance.uniform(-0.01, 0.01) for _ in range(rows * columns))
        end = len(numbers) * numbers.itemsize
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + numbers.tobytes())
