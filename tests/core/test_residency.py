"""Loading and unloading on demand, through the dispatcher, with real worker processes."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from genserve.core.residency import Outcome, Report
from genserve.core.runtime import Runtime
from genserve.domain.pool import WorkerInfo, WorkerState
from genserve.domain.task import Task, TaskState
from genserve.errors import ConfigError
from tests.core.conftest import Start, asks, caller

PATIENCE_S = 60
FAKE: dict[str, Any] = {"family": "fake", "multiple_of": 8}
MODELS = {
    "fake": FAKE,
    "other": FAKE,
    "slow": FAKE | {"options": {"load_s": 0.3}},
    "broken": FAKE | {"options": {"on_load": "error"}},
    "large": FAKE | {"options": {"on_load": "oom"}},
    "deadly": FAKE | {"options": {"on_load": "crash"}},
    "absent": {"family": "flux"},
}


async def running(start: Start, workers: int = 1, **pool: Any) -> Runtime:
    """A runtime whose workers are all idle."""
    devices = {"devices": f"cpu:{workers}", "threads": 1, "restart_min_s": 0.01}
    runtime = await start(models=MODELS, pool=devices | pool)
    await until(runtime, lambda worker: worker.state is WorkerState.IDLE)
    return runtime


async def until(runtime: Runtime, true: Callable[[WorkerInfo], bool]) -> None:
    """Wait until it is true of every worker."""
    async with asyncio.timeout(PATIENCE_S):
        while not all(true(worker) for worker in runtime.pool.workers()):
            await asyncio.sleep(0.01)


async def submit(runtime: Runtime, prompt: str = "a picture", **changes: Any) -> Task:
    request = asks(prompt, **changes)
    return (await runtime.service.submit(caller(runtime), request, dialect="test")).task


async def until_started(runtime: Runtime, task: Task) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await runtime.service.get(caller(runtime), task.id)).state is TaskState.PENDING:
            await asyncio.sleep(0.01)


async def load(runtime: Runtime, model: str, *, wait: bool = True) -> list[Report]:
    spec = runtime.catalog.serving(model).spec
    async with asyncio.timeout(PATIENCE_S):
        return await runtime.dispatcher.residency.load(spec, wait=wait)


async def unload(runtime: Runtime, model: str, *, wait: bool = True) -> list[Report]:
    async with asyncio.timeout(PATIENCE_S):
        return await runtime.dispatcher.residency.unload(model, wait=wait)


def outcomes(reports: list[Report]) -> list[Outcome]:
    return [report.outcome for report in reports]


async def test_every_idle_worker_loads_and_unloads(start: Start):
    runtime = await running(start, workers=2)
    assert outcomes(await load(runtime, "slow")) == [Outcome.LOADED] * 2
    assert [worker.loaded for worker in runtime.pool.workers()] == [("slow",)] * 2
    assert outcomes(await load(runtime, "slow")) == [Outcome.ALREADY_LOADED] * 2
    assert outcomes(await unload(runtime, "slow")) == [Outcome.UNLOADED] * 2
    assert [worker.loaded for worker in runtime.pool.workers()] == [()] * 2
    assert outcomes(await unload(runtime, "slow")) == [Outcome.NOT_LOADED] * 2


async def test_two_who_ask_for_the_same_wait_for_the_same(start: Start):
    runtime = await running(start)
    both = await asyncio.gather(load(runtime, "slow"), load(runtime, "slow"))
    assert [outcomes(reports) for reports in both] == [[Outcome.LOADED]] * 2
    undone = await asyncio.gather(unload(runtime, "slow"), unload(runtime, "slow"))
    assert [outcomes(reports) for reports in undone] == [[Outcome.UNLOADED]] * 2


async def test_without_waiting_it_is_said_what_has_begun(start: Start):
    runtime = await running(start)
    assert outcomes(await load(runtime, "slow", wait=False)) == [Outcome.LOADING]
    await until(
        runtime, lambda worker: worker.loaded == ("slow",) and worker.state is WorkerState.IDLE
    )
    assert outcomes(await unload(runtime, "slow", wait=False)) == [Outcome.UNLOADING]
    await until(runtime, lambda worker: worker.loaded == ())


async def test_a_busy_worker_loads_after_its_task_and_before_the_next(start: Start):
    runtime = await running(start)
    first = await submit(runtime, "fake:slow_step=0.1", steps=4)
    waiting = [await submit(runtime, f"{n} fake:slow_step=0.1", steps=20) for n in range(2)]
    await until_started(runtime, first)
    assert outcomes(await load(runtime, "other")) == [Outcome.QUEUED]
    await until(runtime, lambda worker: "other" in worker.loaded)
    last = await runtime.service.get(caller(runtime), waiting[-1].id)
    assert last.state is TaskState.PENDING
    assert (await runtime.service.wait(first.id)).state is TaskState.COMPLETED
    assert (await runtime.service.wait(waiting[0].id)).state is TaskState.COMPLETED


async def test_a_busy_worker_unloads_after_its_task(start: Start):
    runtime = await running(start)
    task = await submit(runtime, "fake:slow_step=0.1", steps=5)
    await until(runtime, lambda worker: worker.loaded == ("fake",))
    assert outcomes(await unload(runtime, "fake")) == [Outcome.QUEUED]
    assert (await runtime.service.wait(task.id)).state is TaskState.COMPLETED
    await until(runtime, lambda worker: worker.loaded == ())


async def test_an_unload_drops_a_load_that_still_waits(start: Start):
    runtime = await running(start)
    task = await submit(runtime, "fake:slow_step=0.1", steps=5)
    await until_started(runtime, task)
    assert outcomes(await load(runtime, "other")) == [Outcome.QUEUED]
    assert outcomes(await unload(runtime, "other")) == [Outcome.NOT_LOADED]
    assert (await runtime.service.wait(task.id)).state is TaskState.COMPLETED
    await submit(runtime, "another")
    await until(runtime, lambda worker: worker.state is WorkerState.IDLE)
    assert runtime.pool.workers()[0].loaded == ("fake",)


@pytest.mark.parametrize(
    ("model", "code"),
    [("broken", "model_broken"), ("large", "out_of_memory"), ("deadly", "worker_failed")],
)
async def test_a_load_that_fails_says_why_and_is_not_tried_again(
    start: Start, model: str, code: str
):
    runtime = await running(start)
    [report] = await load(runtime, model)
    assert report.outcome is Outcome.FAILED
    assert report.error is not None
    assert report.error.code == code
    await until(runtime, lambda worker: worker.state is WorkerState.IDLE)
    task = await submit(runtime)
    assert (await runtime.service.wait(task.id)).state is TaskState.COMPLETED
    assert runtime.pool.workers()[0].restarts == (1 if model == "deadly" else 0)


async def test_a_worker_that_is_starting_loads_when_it_is_up(start: Start):
    runtime = await start(models=MODELS, pool={"devices": "cpu:1", "threads": 1})
    assert runtime.pool.workers()[0].state is WorkerState.STARTING
    assert outcomes(await load(runtime, "other")) == [Outcome.QUEUED]
    await until(runtime, lambda worker: worker.loaded == ("other",))


async def test_who_waits_for_a_load_is_told_of_the_shutdown(start: Start):
    runtime = await running(start)
    waiting = asyncio.create_task(load(runtime, "slow"))
    await until(runtime, lambda worker: worker.loading == "slow")
    await runtime.stop(drain_s=0)
    [report] = await waiting
    assert report.outcome in (Outcome.FAILED, Outcome.LOADED)


async def test_several_models_are_preloaded_and_a_broken_one_is_reported(
    start: Start, caplog: pytest.LogCaptureFixture
):
    preload = ["fake", "absent", "broken", "other", "fake"]
    with caplog.at_level(logging.ERROR):
        runtime = await running(start, workers=2, preload=preload)
        await until(runtime, lambda worker: set(worker.loaded) == {"fake", "other"})
        await until(runtime, lambda worker: worker.state is WorkerState.IDLE)
    told = [record.getMessage() for record in caplog.records if record.name.endswith("residency")]
    assert any("cannot preload absent" in line and "models/absent" in line for line in told)
    assert sum("cannot load broken" in line for line in told) == 2  # each worker says it once
    task = await submit(runtime)
    assert (await runtime.service.wait(task.id)).state is TaskState.COMPLETED


async def test_what_is_preloaded_comes_back_with_a_new_process(start: Start):
    runtime = await running(start, preload=["fake", "other"])
    await until(runtime, lambda worker: set(worker.loaded) == {"fake", "other"})
    pid = runtime.pool.workers()[0].pid
    await runtime.pool.kill("cpu-0")
    await until(runtime, lambda worker: worker.pid not in (pid, None))
    await until(runtime, lambda worker: set(worker.loaded) == {"fake", "other"})


async def test_when_the_models_change_others_are_preloaded_and_what_is_gone_is_unloaded(
    start: Start,
):
    runtime = await running(start, preload=["fake"])
    await until(runtime, lambda worker: worker.loaded == ("fake",))
    other = runtime.catalog.serving("other").spec
    await runtime.dispatcher.residency.follow([other], ["fake"], [])
    await until(runtime, lambda worker: worker.loaded == ("other",))
    await until(runtime, lambda worker: worker.state is WorkerState.IDLE)  # told a moment later
    assert outcomes(await unload(runtime, "other")) == [Outcome.UNLOADED]
    await runtime.dispatcher.residency.follow([other], [], [])  # it was loaded once, that is enough
    assert (await runtime.service.wait((await submit(runtime)).id)).state is TaskState.COMPLETED
    assert runtime.pool.workers()[0].loaded == ("fake",)
    newer = other.model_copy(update={"stamp": "new"})
    await runtime.dispatcher.residency.follow([newer], [], ["other"])
    await until(runtime, lambda worker: "other" in worker.loaded)


async def test_what_was_read_before_its_files_changed_is_read_anew(start: Start):
    runtime = await running(start)
    residency = runtime.dispatcher.residency
    assert outcomes(await load(runtime, "other")) == [Outcome.LOADED]
    await residency.follow([], [], ["other"])
    assert outcomes(await load(runtime, "other")) == [Outcome.LOADED]
    assert outcomes(await load(runtime, "other")) == [Outcome.ALREADY_LOADED]


async def test_so_is_what_is_loaded_ahead(start: Start):
    runtime = await running(start, preload=["fake"])
    await until(runtime, lambda worker: worker.loaded == ("fake",))
    (worker,) = runtime.pool.workers()
    spec = runtime.catalog.serving("fake").spec
    deadly = spec.model_copy(update={"stamp": "new", "options": {"on_load": "crash"}})
    await runtime.dispatcher.residency.follow([deadly], [], ["fake"])
    await until(runtime, lambda now: now.pid not in (worker.pid, None))  # it was read, and crashed


async def test_an_unknown_model_to_preload_is_a_wrong_configuration(start: Start):
    with pytest.raises(ConfigError) as refused:
        await start(models=MODELS, pool={"devices": "cpu:1", "preload": ["no-such-model"]})
    assert "pool.preload" in refused.value.detail("en")
    assert "no-such-model" in refused.value.detail("en")


async def test_idle_models_are_unloaded_by_configuration(start: Start):
    runtime = await running(start, idle_unload_s=0.2)
    assert outcomes(await load(runtime, "other")) == [Outcome.LOADED]
    await until(runtime, lambda worker: worker.loaded == ())
    task = await submit(runtime)
    assert (await runtime.service.wait(task.id)).state is TaskState.COMPLETED
