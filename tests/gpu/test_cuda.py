"""What only a real GPU can show. Skipped where NVML finds none."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from genserve.core.runtime import Runtime
from genserve.domain.pool import WorkerState
from genserve.domain.request import GenerationRequest
from genserve.domain.task import TaskState
from genserve.workers.devices import Device, choose, installed_gpus, memory_used
from tests.core.conftest import caller, fake_config

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not installed_gpus(), reason="there is no NVIDIA GPU"),
]


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[Runtime]:
    """The shipped model on every GPU."""
    tiny = {"family": "flux", "upscale": True, "modes": ["text2img", "img2img"]}
    config = fake_config(
        tmp_path,
        models_dir=ROOT / "models",
        models={"tiny-flux-dev": tiny},
        pool={"devices": "auto"},
    )
    started = await Runtime.start(config, reread=lambda: config)
    yield started
    await started.stop(drain_s=0)


def asks(**changes: Any) -> GenerationRequest:
    base = {"model": "tiny-flux-dev", "prompt": "a red cat on a blue background", "seed": 42}
    size = {"width": 128, "height": 128, "steps": 20}
    return GenerationRequest.model_validate(base | size | changes)


def devices(runtime: Runtime) -> list[Device]:
    return choose(runtime.config.pool, {}, installed_gpus())


async def test_every_gpu_has_a_worker_and_the_same_seed_gives_the_same_bytes(runtime: Runtime):
    assert {worker.device for worker in runtime.pool.workers()} == {"cuda"}
    assert len(runtime.pool.workers()) == len(installed_gpus())
    drawn = []
    for _ in range(2):
        task = (await runtime.service.submit(caller(runtime), asks(), dialect="test")).task
        ended = await runtime.service.wait(task.id)
        assert ended.state is TaskState.COMPLETED, ended.error
        assert ended.result is not None
        drawn.append(ended.result.images[0].sha256)
    assert drawn[0] == drawn[1]


async def test_a_killed_worker_gives_its_memory_back_and_the_task_goes_on(runtime: Runtime):
    submit = runtime.service.submit
    task = (await submit(caller(runtime), asks(steps=1000), dialect="test")).task
    while not (busy := [w for w in runtime.pool.workers() if w.task_id == task.id and w.loaded]):
        await asyncio.sleep(0.05)
    device = next(d for d in devices(runtime) if d.name == busy[0].id)
    with_model = memory_used(device, busy[0].pid or 0)
    os.kill(busy[0].pid or 0, signal.SIGKILL)
    await runtime.service.cancel(caller(runtime), task.id)
    await runtime.service.wait(task.id)
    while any(w.state is not WorkerState.IDLE for w in runtime.pool.workers()):
        await asyncio.sleep(0.05)
    without = memory_used(device, 0)
    assert with_model is not None
    assert without is not None
    assert without < with_model
