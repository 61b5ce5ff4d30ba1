"""New weights while tasks run and wait: through the queue, with real worker processes."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from genserve.core.runtime import Runtime
from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest, LoraRef
from genserve.domain.task import Task, TaskState
from genserve.errors import ModelNotInstalled
from tests.core.conftest import Start, asks, caller
from tests.core.test_catalog import install
from tests.core.test_live_catalog import lora, names

MODELS: dict[str, dict[str, Any]] = {
    "fake": {"family": "fake", "multiple_of": 8, "loras": True, "lora_base": "flux"},
    "real": {"family": "flux"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "loras").mkdir()
    return tmp_path


async def submit(runtime: Runtime, request: GenerationRequest) -> Task:
    return (await runtime.service.submit(caller(runtime), request, dialect="native")).task


async def ended(runtime: Runtime, task: Task) -> Task:
    async with asyncio.timeout(120):
        return await runtime.service.wait(task.id)


def wearing(*loras: str) -> GenerationRequest:
    return asks(loras=[LoraRef(name=name) for name in loras])


async def test_tasks_that_run_and_wait_go_on_and_what_vanished_fails_as_it_would_have(
    start: Start, folder: Path
):
    for name in ("kept", "doomed"):
        lora(folder, name)
    runtime = await start(models=MODELS)
    real = asks(model="real", width=None, height=None)
    with pytest.raises(ModelNotInstalled):
        await submit(runtime, real)
    install(folder / "models" / "real")
    assert names((await runtime.rescan()).added) == ["model real"]

    running = await submit(runtime, asks("fake:sleep=60", steps=100))
    kept, doomed = [await submit(runtime, wearing(name)) for name in ("kept", "doomed")]
    of_real = await submit(runtime, real)
    shutil.rmtree(folder / "models" / "real")
    (folder / "loras" / "doomed.safetensors").unlink()
    lora(folder, "new")
    changes = await runtime.rescan()
    assert (names(changes.added), names(changes.removed)) == (
        ["lora new"],
        ["model real", "lora doomed"],
    )
    new = await submit(runtime, wearing("new"))

    async with asyncio.timeout(120):
        while (await runtime.service.get(caller(runtime), running.id)).state is TaskState.PENDING:
            await asyncio.sleep(0.01)
    running = await runtime.service.get(caller(runtime), running.id)
    assert (running.state, running.attempt) == (TaskState.PROCESSING, 1)
    await runtime.service.cancel(caller(runtime), running.id)  # now the others
    for task in (kept, new):
        assert (await ended(runtime, task)).state is TaskState.COMPLETED
    for task, code, params in (
        (doomed, "unknown_lora", {"lora": "doomed", "available": ["kept", "new"]}),
        (of_real, "model_not_installed", {"model": "real", "folder": "models/real"}),
    ):
        failed = await ended(runtime, task)
        assert failed.state is TaskState.FAILED
        assert failed.error is not None
        assert (failed.error.code, failed.error.params) == (code, params)


async def test_a_model_whose_stand_in_takes_over_is_unloaded(start: Start, folder: Path):
    models = {"small": {"family": "flux"}, "real": {"family": "flux", "stand_in": "small"}}
    for name in models:
        install(folder / "models" / name)
    runtime = await start(models=MODELS | models)
    in_memory = ModelSpec(id="real", family="fake", folder=folder / "models" / "real")
    async with asyncio.timeout(120):
        await runtime.dispatcher.residency.load(in_memory)
        while runtime.pool.workers()[0].loaded != ("real",):
            await asyncio.sleep(0.01)
        shutil.rmtree(folder / "models" / "real")
        (removed,) = (await runtime.rescan()).removed
        assert (removed.name, removed.available) == ("real", True)
        while runtime.pool.workers()[0].loaded:
            await asyncio.sleep(0.01)


async def test_a_lora_that_was_just_put_there_needs_no_rescan(start: Start, folder: Path):
    runtime = await start(models=MODELS)
    lora(folder, "fresh")
    task = await submit(runtime, wearing("fresh"))
    assert (await ended(runtime, task)).state is TaskState.COMPLETED
