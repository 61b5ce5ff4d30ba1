"""What a worker holds in memory: loaded and unloaded on demand, and always told as it is."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from genserve.domain.pool import (
    ModelNotLoaded,
    TaskDone,
    TaskFailed,
    TaskLoading,
    TaskStarted,
    WorkerChanged,
    WorkerDown,
    WorkerInfo,
    WorkerState,
)
from genserve.workers.idle_models import LastUse
from tests.workers.conftest import PoolUnderTest, StartPool, program


async def prepared(pool: PoolUnderTest, *names: str, size_bytes: int = 0) -> WorkerInfo:
    """The first worker, idle, with these models in memory."""
    for name in names:
        info = await pool.until_state(WorkerState.IDLE)
        await pool.pool.prepare(info.id, pool.model(name, size_bytes=size_bytes))
    return await pool.until_state(WorkerState.IDLE)


async def until_loaded(pool: PoolUnderTest, *names: str) -> None:
    """Wait for an event that says so; what is true now may never be told."""
    await pool.next(WorkerChanged, lambda event: event.worker.loaded == names)


async def test_an_idle_worker_unloads_and_can_load_again(start_pool: StartPool):
    pool = await start_pool()
    await prepared(pool, "a", "b")
    assert pool.worker().loaded == ("a", "b")
    await pool.pool.unload("cpu-0", "a")
    await until_loaded(pool, "b")
    assert pool.worker().state is WorkerState.IDLE
    assert isinstance(await pool.run(model=pool.model("a")), TaskDone)
    assert sum(isinstance(event, TaskLoading) for event in pool.events) == 1
    assert pool.worker().loaded == ("b", "a")


async def test_unloading_what_is_not_there_is_answered_too(start_pool: StartPool):
    pool = await start_pool()
    await prepared(pool, "a")
    before = len(pool.events)
    await pool.pool.unload("cpu-0", "another")
    await until_loaded(pool, "a")
    assert len(pool.events) >= before
    assert pool.worker().loaded == ("a",)


async def test_a_busy_worker_unloads_after_its_task(start_pool: StartPool):
    pool = await start_pool()
    running = await pool.submit("fake:slow_step=0.05")
    await pool.next(TaskStarted)
    await pool.pool.unload("cpu-0", "fake")
    assert isinstance(await pool.end_of(running), TaskDone)
    await until_loaded(pool)
    end = next(n for n, event in enumerate(pool.events) if isinstance(event, TaskDone))
    told = [event.worker.loaded for event in pool.events[:end] if isinstance(event, WorkerChanged)]
    assert told == [("fake",)]


async def test_a_load_right_after_an_unload_keeps_the_worker_busy_to_its_end(
    start_pool: StartPool,
):
    """The end of the unloading must not be taken for the end of the reading."""
    pool = await start_pool()
    await prepared(pool, "a")
    await pool.pool.unload("cpu-0", "a")
    await pool.pool.prepare("cpu-0", pool.model("slow", load_s=0.3))
    unloaded = await pool.next(WorkerChanged, lambda event: "a" not in event.worker.loaded)
    assert (unloaded.worker.state, unloaded.worker.loading) == (WorkerState.BUSY, "slow")
    done = await pool.next(WorkerChanged, lambda event: event.worker.state is WorkerState.IDLE)
    assert done.worker.loaded == ("slow",)


async def test_a_task_may_follow_an_unload_at_once(start_pool: StartPool):
    pool = await start_pool()
    await prepared(pool, "fake")
    await pool.pool.unload("cpu-0", "fake")
    task = pool.assignment()
    await pool.pool.submit("cpu-0", task)
    assert isinstance(await pool.end_of(task), TaskDone)
    assert pool.worker().loaded == ("fake",)


async def test_a_model_that_cannot_be_read_ahead_is_told(start_pool: StartPool):
    pool = await start_pool()
    await pool.until_state(WorkerState.IDLE)
    await pool.pool.prepare("cpu-0", pool.model("broken", on_load="error"))
    told = await pool.next(ModelNotLoaded)
    assert (told.worker, told.model, told.error.code) == ("cpu-0", "broken", "model_broken")
    await pool.pool.prepare("cpu-0", pool.model("large", on_load="oom"))
    told = await pool.next(ModelNotLoaded)
    assert (told.model, told.error.code) == ("large", "out_of_memory")
    idle = await pool.next(WorkerChanged, lambda event: event.worker.state is WorkerState.IDLE)
    assert idle.worker.loaded == ()


async def test_what_a_task_evicted_is_told_also_when_it_failed(start_pool: StartPool):
    pool = await start_pool()
    await prepared(pool, "a", "b")
    failed = await pool.run("fake:oom=99", model=pool.model("b"))
    assert isinstance(failed, TaskFailed)
    assert failed.error.code == "out_of_memory"
    assert pool.worker().loaded == ("b",)


async def test_what_made_room_in_vain_is_told(start_pool: StartPool):
    pool = await start_pool()
    await prepared(pool, "a", "b")
    failed = await pool.run(model=pool.model("huge", on_load="oom"))
    assert isinstance(failed, TaskFailed)
    assert failed.error.code == "out_of_memory"
    assert pool.worker().loaded == ()


async def test_a_process_that_does_not_come_back_from_unloading_is_ended(start_pool: StartPool):
    pool = await start_pool(command=program("ignore_stop"), min_step_timeout_s=0.2)
    await pool.until_state(WorkerState.IDLE)
    await pool.pool.unload("cpu-0", "a")
    down = await pool.next(WorkerDown)
    assert down.worker.reason == "unloading a model took longer than 0.2 s"


async def test_an_idle_model_is_unloaded(start_pool: StartPool):
    pool = await start_pool(idle_unload_s=0.2)
    await prepared(pool, "a")
    await until_loaded(pool)
    assert pool.worker().state is WorkerState.IDLE
    assert isinstance(await pool.run(model=pool.model("a")), TaskDone)
    await until_loaded(pool)


async def test_a_model_in_use_is_not_idle_however_long_the_task(start_pool: StartPool):
    pool = await start_pool(idle_unload_s=2)
    first = await pool.run("fake:slow_step=0.1", steps=25)
    second = await pool.run("at once")
    assert isinstance(first, TaskDone)
    assert isinstance(second, TaskDone)
    assert sum(isinstance(event, TaskLoading) for event in pool.events) == 1
    await until_loaded(pool)


async def test_models_are_kept_for_ever_by_default(start_pool: StartPool):
    pool = await start_pool()
    await prepared(pool, "a")
    await asyncio.sleep(0.5)
    assert pool.worker().loaded == ("a",)


MODELS = st.sampled_from(["a", "b", "c"])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), MODELS, st.sets(MODELS)), max_size=30))
def test_a_model_is_due_when_it_was_of_no_use_for_so_long(happenings):
    """Against the plain definition, over any sequence of uses and changes of what is loaded."""
    last_use, now = LastUse(idle_s=5), 0
    since: dict[str, int] = {}
    for passed, used, loaded in happenings:
        now += passed
        due = {model for model, moment in since.items() if now - moment >= 5}
        assert set(last_use.due(now)) == due
        next_in_s = last_use.next_in_s(now)
        assert (next_in_s is None) == (not since)
        assert next_in_s is None or (next_in_s == 0) == bool(due)
        last_use.loaded(loaded, now)
        since = {model: since.get(model, now) for model in loaded}
        last_use.used(used, now)
        if used in since:
            since[used] = now


def test_with_no_limit_none_is_ever_due():
    last_use = LastUse(idle_s=0)
    last_use.loaded(["a"], 0)
    assert last_use.due(1e9) == []
    assert last_use.next_in_s(1e9) is None
