"""A task that is too large for one GPU moves to a larger one: decided, remembered, and run."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genserve.config import Pool
from genserve.core.outgrown import OTHER_GPU, Outgrown
from genserve.core.policy import GiveUp, Requeue, after_failure, choose, warm_key
from genserve.domain.pool import TaskFailed, WorkerInfo, WorkerPool, WorkerState
from genserve.domain.task import ErrorInfo, TaskState
from genserve.errors import OutOfMemory, WorkerFailed
from genserve.store.tasks import Candidate
from genserve.workers import devices
from tests.core.conftest import Start, asks, caller

SIZES = (8, 16, 24)
NO_ROOM = ErrorInfo.of(OutOfMemory(model="m"))


def worker(name: str, size: int | None, state: WorkerState = WorkerState.IDLE) -> WorkerInfo:
    return WorkerInfo(id=name, device="cuda", state=state, memory_total=size)


def candidate(number: int, passed: int = 0) -> Candidate:
    return Candidate(f"t{number}", float(number), 0, warm_key("a", ""), passed)


class Workers:
    """The part of a pool that is asked here."""

    def __init__(self, *workers: WorkerInfo) -> None:
        self.now = workers

    def workers(self) -> tuple[WorkerInfo, ...]:
        return self.now


def outgrown(*workers: WorkerInfo) -> tuple[Outgrown, Workers]:
    pool = Workers(*workers)
    return Outgrown(cast(WorkerPool, pool)), pool


# Who may take it

needs = st.dictionaries(st.sampled_from(["t0", "t1", "t2", "t3"]), st.sampled_from(SIZES))


@given(st.lists(st.integers(0, 3), max_size=4), st.lists(st.sampled_from(SIZES), max_size=3), needs)
def test_only_a_larger_worker_takes_it_and_the_others_are_as_ever(
    passed: Sequence[int], sizes: Sequence[int], needs: Mapping[str, int]
):
    window = [candidate(number, count) for number, count in enumerate(passed)]
    idle = [worker(f"w{number}", size) for number, size in enumerate(sizes)]
    choice = choose(window, idle, max_passes=3, needs=needs)
    servable = [c for c in window if any(size > needs.get(c.id, 0) for size in sizes)]
    assert (choice is None) == (not servable)
    if choice is not None:
        taker = next(one for one in idle if one.id == choice.worker_id)
        assert (taker.memory_total or 0) > needs.get(choice.task_id, 0)
        assert choice.task_id == servable[0].id, "all are equally cold: the first is next"
        assert choice.passed == (), "one that cannot be taken is not passed"


# What is remembered


def test_without_a_larger_worker_there_is_no_such_rung():
    tasks, _ = outgrown(worker("small", 8), worker("same", 8))
    assert not tasks.has_larger("t", "small", NO_ROOM)
    assert (tasks.needs(), tasks.degraded("t")) == ({}, ())


def test_other_failures_do_not_move_a_task():
    tasks, _ = outgrown(worker("small", 8), worker("large", 16))
    assert not tasks.has_larger("t", "small", ErrorInfo.of(WorkerFailed(reason="x")))
    assert tasks.needs() == {}


def test_a_task_moves_up_until_nobody_has_more():
    tasks, _ = outgrown(worker("small", 8), worker("middle", 16), worker("large", 24))
    assert tasks.has_larger("t", "small", NO_ROOM)
    assert tasks.needs() == {"t": 8}
    assert tasks.has_larger("t", "middle", NO_ROOM)
    assert tasks.needs() == {"t": 16}
    assert tasks.degraded("t") == (OTHER_GPU,)
    assert not tasks.has_larger("t", "large", NO_ROOM)
    tasks.forget("t")
    assert (tasks.needs(), tasks.degraded("t")) == ({}, ())


@pytest.mark.parametrize("state", [WorkerState.BROKEN, WorkerState.STOPPED])
def test_when_the_larger_worker_is_gone_nobody_waits_for_it(state: WorkerState):
    tasks, pool = outgrown(worker("small", 8), worker("large", 16))
    assert tasks.has_larger("t", "small", NO_ROOM)
    pool.now = (worker("small", 8), worker("large", 16, state))
    assert (tasks.needs(), tasks.degraded("t")) == ({}, ())
    assert not tasks.has_larger("t", "small", NO_ROOM)


def test_what_follows_a_failure():
    failed = TaskFailed(task_id="t", attempt=1, worker="w", token="x", error=NO_ROOM)
    put_back = after_failure(failed, crashes=0, poison_after=3, has_larger=True)
    assert put_back == Requeue(crashed=False)
    assert after_failure(failed, crashes=0, poison_after=3) == GiveUp(NO_ROOM)


# With real workers


@pytest.fixture
def uneven(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose second device has twice the memory of the first."""
    real = devices.choose

    def choose(settings: Pool, *rest: Any) -> list[devices.Device]:
        first, second = real(settings, *rest)
        return [first, replace(second, memory_bytes=2 * first.memory_bytes)]

    monkeypatch.setattr(devices, "choose", choose)


async def until_up(runtime: Any) -> None:
    async with asyncio.timeout(60):
        while any(one.state is not WorkerState.IDLE for one in runtime.pool.workers()):
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("uneven")
async def test_a_task_that_is_too_large_for_one_is_drawn_by_the_other(start: Start):
    runtime = await start(pool={"devices": "cpu:2", "threads": 1})
    await until_up(runtime)
    request = asks("fake:no_memory=1")
    task = (await runtime.service.submit(caller(runtime), request, dialect="test")).task
    async with asyncio.timeout(60):
        ended = await runtime.service.wait(task.id)
    assert (ended.state, ended.attempt, ended.crashes) == (TaskState.COMPLETED, 2, 0)
    assert ended.result is not None
    assert ended.result.degraded == (OTHER_GPU,)


@pytest.mark.usefixtures("uneven")
async def test_one_that_is_too_large_for_all_fails_as_such(start: Start):
    runtime = await start(pool={"devices": "cpu:2", "threads": 1})
    await until_up(runtime)
    request = asks("fake:no_memory")
    task = (await runtime.service.submit(caller(runtime), request, dialect="test")).task
    async with asyncio.timeout(60):
        ended = await runtime.service.wait(task.id)
    assert (ended.state, ended.attempt) == (TaskState.FAILED, 2)
    assert ended.error is not None
    assert ended.error.code == "out_of_memory"


@pytest.mark.usefixtures("uneven")
async def test_those_that_wait_for_the_larger_worker_do_not_hold_up_the_smaller(start: Start):
    runtime = await start(pool={"devices": "cpu:2", "threads": 1}, queue={"window": 2})
    await until_up(runtime)
    me, service, outgrown = caller(runtime), runtime.service, runtime.dispatcher.outgrown

    async def sent(prompt: str, **more: Any) -> str:
        return (await service.submit(me, asks(prompt, **more), dialect="test")).task.id

    async with asyncio.timeout(60):
        large = [await sent("fake:no_memory=1 fake:slow_step=2", steps=30)]
        while (await service.get(me, large[0])).attempt < 2:
            await asyncio.sleep(0.01)
        large += [await sent("fake:no_memory=1", seed=seed) for seed in range(3)]
        assert (await service.wait(await sent("small"))).state is TaskState.COMPLETED
        assert outgrown.needs().keys() == set(large)
        for task_id in large:
            await service.cancel(me, task_id)
        for task_id in large:
            assert (await service.wait(task_id)).state is TaskState.CANCELLED
        assert outgrown.needs() == {}
