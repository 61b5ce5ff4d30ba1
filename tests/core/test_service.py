"""A task's way through the whole house, on the fake family: accepted, drawn, booked, told."""

import asyncio
from pathlib import Path

import pytest

from genserve.domain.caller import Permission
from genserve.domain.events import Cancelled, Finished, Progress, Queued, Started
from genserve.domain.task import TaskState
from genserve.errors import (
    IdempotencyMismatch,
    PriorityForbidden,
    QueueFull,
    ShuttingDown,
    TaskAlreadyEnded,
    TaskNotFound,
    UnknownModel,
)
from tests.core.conftest import ADMIN_KEY, OTHER_KEY, Start, asks, caller


async def test_a_task_is_drawn_booked_and_told(start: Start):
    runtime = await start()
    submitted = await runtime.service.submit(caller(runtime), asks(count=2, seed=7), dialect="test")
    assert submitted.task.state is TaskState.PENDING
    task = await runtime.service.wait(submitted.task.id)
    assert task.state is TaskState.COMPLETED
    assert task.result is not None
    assert [image.seed for image in task.result.images] == [7, 8]
    assert {(image.width, image.height) for image in task.result.images} == {(64, 64)}
    for image in task.result.images:
        content = runtime.blobs.path(image.sha256).read_bytes()
        assert content.startswith(b"\x89PNG")
    assert task.resolved is not None
    assert task.resolved.scheduler == "euler"


async def test_an_absent_seed_is_drawn_once_and_kept(start: Start):
    runtime = await start()
    submitted = await runtime.service.submit(caller(runtime), asks(), dialect="test")
    task = await runtime.service.wait(submitted.task.id)
    assert task.asked.seed is not None
    assert task.result is not None
    assert task.result.images[0].seed == task.asked.seed


async def test_a_watcher_sees_the_way_and_the_end(start: Start):
    runtime = await start()
    me = caller(runtime)
    first = await runtime.service.submit(me, asks("fake:sleep=0.3"), dialect="test")
    second = await runtime.service.submit(me, asks("then this", steps=4), dialect="test")
    told = [event async for _, event in runtime.service.watch(second.task.id)]
    assert isinstance(told[0], Queued)
    assert any(isinstance(event, Started) for event in told)
    steps = [event.step for event in told if isinstance(event, Progress)]
    assert steps == sorted(steps)
    assert isinstance(told[-1], Finished)
    again = [event async for _, event in runtime.service.watch(first.task.id)]
    assert again == [Finished()]


async def test_another_owners_task_is_not_found_an_admin_sees_it(start: Start):
    runtime = await start()
    submitted = await runtime.service.submit(caller(runtime), asks(), dialect="test")
    with pytest.raises(TaskNotFound):
        await runtime.service.get(caller(runtime, OTHER_KEY), submitted.task.id)
    seen = await runtime.service.get(caller(runtime, ADMIN_KEY), submitted.task.id)
    assert seen.id == submitted.task.id
    assert await runtime.service.list_tasks(caller(runtime, OTHER_KEY)) == []
    assert len(await runtime.service.list_tasks(caller(runtime, ADMIN_KEY))) == 1


async def test_a_waiting_task_is_cancelled_at_once_a_running_one_at_its_next_step(start: Start):
    runtime = await start()
    me = caller(runtime)
    running = await runtime.service.submit(me, asks("fake:slow_step=0.1", steps=100), dialect="t")
    waiting = await runtime.service.submit(me, asks(), dialect="t")
    async for _, event in runtime.service.watch(running.task.id):
        if isinstance(event, Progress):
            break
    cancelled = await runtime.service.cancel(me, waiting.task.id)
    assert cancelled.state is TaskState.CANCELLED
    await runtime.service.cancel(me, running.task.id)
    ended = await runtime.service.wait(running.task.id)
    assert ended.state is TaskState.CANCELLED
    with pytest.raises(TaskAlreadyEnded):
        await runtime.service.cancel(me, running.task.id)
    told = [event async for _, event in runtime.service.watch(running.task.id)]
    assert told == [Cancelled()]


async def test_a_task_that_kills_its_worker_is_poison_after_three(start: Start):
    runtime = await start()
    me = caller(runtime)
    poison = await runtime.service.submit(me, asks("fake:crash"), dialect="test")
    normal = await runtime.service.submit(me, asks(), dialect="test")
    ended = await runtime.service.wait(poison.task.id)
    assert ended.state is TaskState.FAILED
    assert ended.error is not None
    assert (ended.error.code, ended.error.params) == ("poisoned", {"crashes": 3})
    assert (await runtime.service.wait(normal.task.id)).state is TaskState.COMPLETED


@pytest.mark.parametrize("word", ["fake:nan", "fake:constant"])
async def test_an_unusable_picture_is_never_delivered(start: Start, word: str):
    runtime = await start()
    submitted = await runtime.service.submit(caller(runtime), asks(word), dialect="test")
    ended = await runtime.service.wait(submitted.task.id)
    assert ended.state is TaskState.FAILED
    assert ended.error is not None
    assert ended.error.code == "bad_picture"
    assert ended.attempt == 2


async def test_the_time_limit_ends_a_task(start: Start):
    runtime = await start(queue={"time_limit_s": 0.5})
    slow = asks("fake:slow_step=0.05", steps=100)
    submitted = await runtime.service.submit(caller(runtime), slow, dialect="test")
    ended = await runtime.service.wait(submitted.task.id)
    assert ended.error is not None
    assert (ended.error.code, ended.error.params) == ("task_timeout", {"limit_s": 0.5})


async def test_the_waiting_limit_ends_a_task(start: Start):
    runtime = await start(queue={"waiting_limit_s": 0.5})
    me = caller(runtime)
    busy = await runtime.service.submit(me, asks("fake:sleep=3"), dialect="test")
    waiting = await runtime.service.submit(me, asks(), dialect="test")
    ended = await runtime.service.wait(waiting.task.id)
    assert ended.error is not None
    assert ended.error.code == "queue_timeout"
    assert (await runtime.service.wait(busy.task.id)).state is TaskState.COMPLETED


async def test_an_idempotency_key_leads_to_the_same_task(start: Start):
    runtime = await start()
    me, other = caller(runtime), caller(runtime, OTHER_KEY)
    submit = runtime.service.submit
    first = await submit(me, asks(), dialect="test", idempotency="k")
    again = await submit(me, asks(), dialect="test", idempotency="k")
    assert (again.task.id, again.replayed) == (first.task.id, True)
    with pytest.raises(IdempotencyMismatch):
        await submit(me, asks("another"), dialect="test", idempotency="k")
    elsewhere = await submit(other, asks(), dialect="test", idempotency="k")
    assert elsewhere.task.id != first.task.id


async def test_priority_below_the_floor_is_for_admins(start: Start):
    runtime = await start()
    with pytest.raises(PriorityForbidden):
        await runtime.service.submit(caller(runtime), asks(), dialect="test", priority=-1)
    admin = caller(runtime, ADMIN_KEY)
    assert admin.allows(Permission.GENERATION)
    submitted = await runtime.service.submit(admin, asks(), dialect="test", priority=-1)
    assert submitted.task.priority == -1


async def test_what_does_not_fit_is_refused_before_anything_is_queued(start: Start):
    runtime = await start(queue={"max_tasks": 1})
    me = caller(runtime)
    with pytest.raises(UnknownModel):
        await runtime.service.submit(me, asks(model="none"), dialect="test")
    await runtime.service.submit(me, asks("fake:sleep=5"), dialect="test")
    while not (await runtime.service.status()).counts.get(TaskState.PROCESSING):
        await asyncio.sleep(0.01)
    await runtime.service.submit(me, asks(), dialect="test")
    with pytest.raises(QueueFull):
        await runtime.service.submit(me, asks(), dialect="test")


async def test_a_drain_gives_work_back_and_a_restart_does_it(start: Start, tmp_path: Path):
    runtime = await start()
    me = caller(runtime)
    slow = asks("fake:slow_step=0.2", steps=20)
    running = await runtime.service.submit(me, slow, dialect="test")
    async for _, event in runtime.service.watch(running.task.id):
        if isinstance(event, Progress):
            break
    waiter = asyncio.create_task(runtime.service.wait(running.task.id))
    await asyncio.sleep(0)
    await runtime.stop(drain_s=0)
    with pytest.raises(ShuttingDown):
        await waiter
    with pytest.raises(ShuttingDown):
        await runtime.service.submit(me, asks(), dialect="test")
    again = await start()
    task = await again.service.wait(running.task.id)
    assert task.state is TaskState.COMPLETED
    assert task.attempt == 2
    assert task.crashes == 0, "a drain is not the task's fault"
