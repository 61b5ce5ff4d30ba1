"""A pool that works: tasks go in, files come out, and the events tell so in order."""

import asyncio
import hashlib
import io
import logging

import pytest
from PIL import Image

from genserve.domain.pool import (
    TaskDone,
    TaskFailed,
    TaskLoading,
    TaskProgress,
    TaskStarted,
    TaskStopped,
    WorkerChanged,
    WorkerDown,
    WorkerState,
    WorkerUp,
)
from tests.workers.conftest import StartPool, blob


async def test_a_task_is_loaded_started_stepped_and_done(start_pool: StartPool):
    pool = await start_pool()
    up = await pool.next(WorkerUp)
    assert up.worker.state is WorkerState.IDLE
    assert up.worker.pid
    done = await pool.run(steps=3)
    assert isinstance(done, TaskDone)
    kinds = [type(event) for event in pool.events]
    assert kinds == [
        WorkerUp,
        TaskLoading,
        WorkerChanged,
        TaskStarted,
        *[TaskProgress] * 3,
        TaskDone,
    ]
    assert [(e.step, e.total) for e in pool.events if isinstance(e, TaskProgress)] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    assert pool.worker().state is WorkerState.IDLE
    assert pool.worker().loaded == ("fake",)


async def test_the_workers_memory_is_sampled(start_pool: StartPool):
    pool = await start_pool()
    await pool.next(WorkerUp)
    while pool.worker().memory_used is None:  # each few seconds, beside the events
        await asyncio.sleep(0.05)
    assert 10e6 < (pool.worker().memory_used or 0) < (pool.worker().memory_total or 0)


async def test_the_file_is_what_the_result_says(start_pool: StartPool):
    pool = await start_pool()
    assignment = await pool.submit()
    done = await pool.end_of(assignment)
    assert isinstance(done, TaskDone)
    (image,) = done.result.images
    data = blob(assignment, image.sha256)
    assert hashlib.sha256(data).hexdigest() == image.sha256
    assert len(data) == image.size_bytes
    with Image.open(io.BytesIO(data)) as opened:
        assert (opened.format, opened.size) == ("PNG", (64, 64))
        assert "Seed: 7" in opened.info["parameters"]
    assert (image.width, image.height, image.seed) == (64, 64, 7)
    assert (done.result.served_by, done.result.native_width) == ("fake", 64)
    assert {"denoise", "decode", "encode", "store"} <= done.result.stages_s.keys()


async def test_a_loaded_model_is_not_loaded_again_and_draws_the_same(start_pool: StartPool):
    pool = await start_pool()
    first, second = await pool.run(name="1"), await pool.run(name="2")
    assert isinstance(first, TaskDone)
    assert isinstance(second, TaskDone)
    assert sum(isinstance(event, TaskLoading) for event in pool.events) == 1
    assert first.result.images == second.result.images
    assert second.result.load_s == 0


async def test_pictures_of_one_task_are_those_of_their_seeds(start_pool: StartPool):
    pool = await start_pool()
    together = await pool.run(count=3, seed=40)
    assert isinstance(together, TaskDone)
    alone = [await pool.run(name=f"{seed}", seed=seed) for seed in (40, 41, 42)]
    assert all(isinstance(done, TaskDone) for done in alone)
    assert [image.sha256 for image in together.result.images] == [
        done.result.images[0].sha256 for done in alone if isinstance(done, TaskDone)
    ]
    steps = [e for e in pool.events if isinstance(e, TaskProgress)][:12]
    assert [(e.step, e.total) for e in steps] == [(step, 12) for step in range(1, 13)]


async def test_the_last_seed_is_followed_by_the_first(start_pool: StartPool):
    pool = await start_pool()
    done = await pool.run(count=2, seed=2**32 - 1)
    assert isinstance(done, TaskDone)
    assert [image.seed for image in done.result.images] == [2**32 - 1, 0]


async def test_only_an_idle_worker_takes_work(start_pool: StartPool):
    pool = await start_pool()
    with pytest.raises(LookupError):
        await pool.pool.submit("cpu-0", pool.assignment())
    running = await pool.submit("fake:slow_step=0.05")
    with pytest.raises(LookupError):
        await pool.pool.submit("cpu-0", pool.assignment("second"))
    with pytest.raises(LookupError):
        await pool.pool.prepare("cpu-0", pool.model())
    assert isinstance(await pool.end_of(running), TaskDone)


async def test_workers_work_beside_each_other(start_pool: StartPool):
    pool = await start_pool(devices="cpu:2")
    for number in (0, 1):
        await pool.until_state(WorkerState.IDLE, number)
    tasks = [pool.assignment("fake:slow_step=0.05", name=str(number)) for number in (0, 1)]
    for number, task in enumerate(tasks):
        await pool.pool.submit(f"cpu-{number}", task)
    assert [worker.state for worker in pool.pool.workers()] == [WorkerState.BUSY] * 2
    for task in tasks:
        assert isinstance(await pool.end_of(task), TaskDone)


async def test_a_model_can_be_prepared_ahead(start_pool: StartPool):
    pool = await start_pool()
    await pool.until_state(WorkerState.IDLE)
    await pool.pool.prepare("cpu-0", pool.model())
    assert pool.worker().state is WorkerState.BUSY
    assert pool.worker().loading == "fake"
    ready = await pool.next(WorkerChanged, lambda event: event.worker.state is WorkerState.IDLE)
    assert (ready.worker.loaded, ready.worker.loading) == (("fake",), "")
    assert isinstance(await pool.run(), TaskDone)
    assert not any(isinstance(event, TaskLoading) for event in pool.events)


async def test_a_model_that_cannot_be_prepared_is_told_to_who_asks_for_it(start_pool: StartPool):
    pool = await start_pool()
    broken = pool.model("broken", on_load="error")
    await pool.until_state(WorkerState.IDLE)
    await pool.pool.prepare("cpu-0", broken)
    await pool.next(WorkerChanged, lambda event: event.worker.state is WorkerState.IDLE)
    failed = await pool.run(model=broken)
    assert isinstance(failed, TaskFailed)
    assert failed.error.code == "model_broken"
    assert not failed.retry
    assert pool.worker().state is WorkerState.IDLE


async def test_an_error_ends_the_task_and_not_the_process(
    start_pool: StartPool, caplog: pytest.LogCaptureFixture
):
    pool = await start_pool()
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    with caplog.at_level(logging.INFO, logger="genserve.worker"):
        assignment = await pool.submit("fake:error")
        failed = await pool.end_of(assignment)
        assert isinstance(await pool.run("next"), TaskDone)
    assert isinstance(failed, TaskFailed)
    assert (failed.error.code, failed.crashed, failed.retry) == ("worker_failed", False, False)
    assert "asked for" not in str(failed.error.params)
    assert pool.worker().pid == pid
    (record,) = [r for r in caplog.records if r.levelname == "ERROR"]
    assert "ValueError: fake:error was asked for" in record.getMessage()
    assert "Traceback" in record.getMessage()
    assert vars(record)["worker"] == "cpu-0"
    assert vars(record)["task_id"] == assignment.task_id


async def test_a_task_is_cancelled_within_a_step(start_pool: StartPool):
    pool = await start_pool()
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    running = await pool.submit("fake:slow_step=0.05", steps=1000)
    reached = await pool.next(TaskProgress)
    await pool.pool.cancel("cpu-0", running.task_id, running.attempt)
    stopped = await pool.end_of(running)
    assert isinstance(stopped, TaskStopped)
    assert not stopped.returned
    last = [event for event in pool.events if isinstance(event, TaskProgress)][-1]
    assert last.step <= reached.step + 2
    assert pool.worker().pid == pid
    assert isinstance(await pool.run("next"), TaskDone)


async def test_cancelling_another_attempt_or_task_does_nothing(start_pool: StartPool):
    pool = await start_pool()
    running = await pool.submit("fake:slow_step=0.03", attempt=2)
    await pool.pool.cancel("cpu-0", running.task_id, 1)
    await pool.pool.cancel("cpu-0", "another", 2)
    assert isinstance(await pool.end_of(running), TaskDone)


async def test_a_cancel_during_loading_takes_effect_before_the_first_step(start_pool: StartPool):
    pool = await start_pool()
    slow = pool.model("slow", load_s=0.2)
    running = await pool.submit(model=slow)
    await pool.next(TaskLoading)
    await pool.pool.cancel("cpu-0", running.task_id, running.attempt)
    assert isinstance(await pool.end_of(running), TaskStopped)
    assert not any(isinstance(event, TaskStarted) for event in pool.events)
    assert pool.worker().loaded == ("slow",)


async def test_the_time_limit_is_not_a_crash(start_pool: StartPool):
    pool = await start_pool()
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    failed = await pool.run("fake:slow_step=0.02", steps=1000, time_limit_s=0.1)
    assert isinstance(failed, TaskFailed)
    assert (failed.error.code, failed.error.params) == ("task_timeout", {"limit_s": 0.1})
    assert (failed.crashed, failed.retry) == (False, False)
    assert pool.worker().pid == pid


async def test_loading_does_not_count_towards_the_time_limit(start_pool: StartPool):
    pool = await start_pool()
    slow = pool.model("slow", load_s=0.4)
    done = await pool.run(model=slow, time_limit_s=0.2)
    assert isinstance(done, TaskDone)
    assert done.result.load_s >= 0.4
    assert done.result.generation_s < done.result.load_s


async def test_an_input_that_is_gone_is_told(start_pool: StartPool):
    pool = await start_pool()
    file = {
        "sha256": "0" * 64,
        "media_type": "image/png",
        "width": 1,
        "height": 1,
        "size_bytes": 1,
    }
    failed = await pool.run(mode="img2img", strength=0.5, images=[{"file": file, "role": "init"}])
    assert isinstance(failed, TaskFailed)
    assert failed.error.code == "input_lost"


async def test_the_least_recently_used_model_makes_room(start_pool: StartPool):
    pool = await start_pool()
    info = await pool.until_state(WorkerState.IDLE)
    assert info.memory_total
    third = info.memory_total // 6 - 1  # of half of the memory, which models may take
    for number, name in enumerate(("a", "b", "a", "c", "d")):
        await pool.run(name=str(number), model=pool.model(name, size_bytes=third))
    assert pool.worker().loaded == ("a", "c", "d")


async def test_nothing_is_told_after_the_stop(start_pool: StartPool):
    pool = await start_pool()
    await pool.until_state(WorkerState.IDLE)
    await pool.stop()
    assert isinstance(pool.events[-1], WorkerDown)
    assert pool.worker().state is WorkerState.STOPPED
    assert pool.worker().pid is None
