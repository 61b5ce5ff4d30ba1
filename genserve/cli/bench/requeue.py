"""How soon a task goes on after the worker process that had it was killed.

Two workers: one is killed in the middle of a task, the other is idle. Measured from the kill to
the moment when the queue has given the task out again, which includes putting it back.
"""

import asyncio
import os
import signal
import time
from pathlib import Path

import uvloop

from genserve.cli.bench.report import Figure, Report, percentile
from genserve.cli.bench.settings import MODEL, settings
from genserve.config import Config
from genserve.core.runtime import Runtime
from genserve.domain.events import Started
from genserve.domain.pool import WorkerState
from genserve.domain.request import GenerationRequest

GOAL_MS = 250.0
WORKERS = 2
READY_TIMEOUT_S = 60.0


def measure(folder: Path, size: int) -> Report:
    """Kill `size` workers, one after another."""
    # Without the back-off after repeated deaths, which is not what is measured.
    pool = {"devices": f"cpu:{WORKERS}", "threads": 1, "restart_min_s": 0.01, "restart_max_s": 0.01}
    config = Config.model_validate({"data_dir": folder / "data", **settings(), "pool": pool})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        took_ms = runner.run(_measure(config, size))
    return Report(
        benchmark="requeue",
        done=f"{size} workers killed in the middle of a task",
        figures=[
            Figure("given out again, p50", percentile(took_ms, 0.5), "ms"),
            Figure("given out again, p99", percentile(took_ms, 0.99), "ms", at_most=GOAL_MS),
        ],
    )


async def _measure(config: Config, size: int) -> list[float]:
    runtime = await Runtime.start(config, reread=lambda: config)
    try:
        return [await _kill_one(runtime) for _ in range(size)]
    finally:
        await runtime.stop(drain_s=0)


async def _kill_one(runtime: Runtime) -> float:
    """Milliseconds from the kill to the second start."""
    await _all_idle(runtime)
    caller = runtime.keys.default_caller()
    request = GenerationRequest(model=MODEL, prompt="fake:sleep=60", width=64, height=64, steps=600)
    task = (await runtime.service.submit(caller, request, dialect="native")).task
    killed_at: float | None = None
    async for _, event in runtime.service.watch(task.id):
        if isinstance(event, Started):
            if event.attempt > 1:
                break
            worker = next(w for w in runtime.pool.workers() if w.task_id == task.id)
            assert worker.pid is not None
            killed_at = time.perf_counter()
            os.kill(worker.pid, signal.SIGKILL)
    assert killed_at is not None
    took_ms = (time.perf_counter() - killed_at) * 1e3
    await runtime.service.cancel(caller, task.id)
    return took_ms


async def _all_idle(runtime: Runtime) -> None:
    async with asyncio.timeout(READY_TIMEOUT_S):
        while any(worker.state is not WorkerState.IDLE for worker in runtime.pool.workers()):
            await asyncio.sleep(0.01)
