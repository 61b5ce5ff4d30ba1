"""Tasks that kill, hang or poison their process, and devices that are never fit again."""

import json
import signal
from pathlib import Path

import pytest

from genserve.domain.pool import (
    TaskDone,
    TaskFailed,
    TaskLoading,
    TaskProgress,
    TaskStarted,
    TaskStopped,
    WorkerDown,
    WorkerState,
)
from tests.workers.conftest import PoolUnderTest, StartPool, signal_process

SHORT = {"min_step_timeout_s": 0.8, "load_timeout_s": 1.0, "decode_timeout_s": 5}


def assert_crashed(event: object) -> None:
    assert isinstance(event, TaskFailed)
    assert (event.error.code, event.crashed, event.retry) == ("worker_failed", True, True)


async def assert_serves_again(pool: PoolUnderTest, dead_pid: int | None) -> None:
    end = await pool.run("the next one")
    assert isinstance(end, TaskDone), end
    assert pool.worker().pid != dead_pid
    assert pool.worker().restarts >= 1


@pytest.mark.parametrize("word", ["crash", "exit", "fatal"])
async def test_a_task_that_ends_its_process_has_crashed(start_pool: StartPool, word: str):
    pool = await start_pool()
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    assignment = await pool.submit(f"fake:{word}")
    assert_crashed(await pool.end_of(assignment))
    down = await pool.next(WorkerDown)
    ends = [type(event) for event in pool.events if isinstance(event, TaskFailed | WorkerDown)]
    assert ends == [TaskFailed, WorkerDown]
    assert down.worker.state is WorkerState.RESTARTING
    assert down.worker.reason
    await assert_serves_again(pool, pid)
    assert len(pool.ends(assignment)) == 1


@pytest.mark.parametrize("word", ["crash", "exit", "fatal"])
async def test_so_has_one_that_ends_it_while_the_model_is_read(start_pool: StartPool, word: str):
    pool = await start_pool()
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    assert_crashed(await pool.run(model=pool.model("bad", on_load=word)))
    await assert_serves_again(pool, pid)


@pytest.mark.parametrize("word", ["hang", "hang_later", "hang_in_c"])
async def test_a_task_that_hangs_is_ended(start_pool: StartPool, word: str):
    pool = await start_pool(**SHORT)
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    assignment = await pool.submit(f"fake:{word}")
    failed = await pool.end_of(assignment)
    assert_crashed(failed)
    assert isinstance(failed, TaskFailed)
    assert "a step took longer than" in str(failed.error.params["reason"])
    await assert_serves_again(pool, pid)


async def test_a_model_that_hangs_while_it_is_read_is_ended(start_pool: StartPool):
    pool = await start_pool(**SHORT)
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    failed = await pool.run(model=pool.model("bad", on_load="hang"))
    assert_crashed(failed)
    assert isinstance(failed, TaskFailed)
    assert "reading the model" in str(failed.error.params["reason"])
    await assert_serves_again(pool, pid)


async def test_slow_steps_are_not_taken_for_a_hang(start_pool: StartPool):
    pool = await start_pool(min_step_timeout_s=0.8, load_timeout_s=30, step_timeout_factor=30)
    assert isinstance(await pool.run("fake:slow_step=0.1", name="quick"), TaskDone)
    assert isinstance(await pool.run("fake:slow_step=1.2", name="slow", steps=2), TaskDone)


async def test_a_stopped_process_is_noticed_while_it_works(start_pool: StartPool):
    pool = await start_pool(**SHORT)
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    assignment = await pool.submit("fake:slow_step=0.02", steps=10_000)
    await pool.next(TaskStarted)
    signal_process(pid, signal.SIGSTOP)
    assert_crashed(await pool.end_of(assignment))
    await assert_serves_again(pool, pid)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_task_that_was_never_taken_is_given_back_unblamed(
    start_pool: StartPool, number: signal.Signals
):
    pool = await start_pool(**SHORT)
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    signal_process(pid, number)
    assignment = pool.assignment()
    await pool.pool.submit("cpu-0", assignment)  # before the loop can have noticed
    stopped = await pool.end_of(assignment)
    assert isinstance(stopped, TaskStopped)
    assert stopped.returned
    await assert_serves_again(pool, pid)


async def test_cancelling_a_task_that_hangs_ends_its_process(start_pool: StartPool):
    pool = await start_pool(min_step_timeout_s=0.8, load_timeout_s=60)
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    assignment = await pool.submit("fake:hang_later")
    await pool.next(TaskProgress)
    await pool.pool.cancel("cpu-0", assignment.task_id, 1)
    stopped = await pool.end_of(assignment)
    assert isinstance(stopped, TaskStopped)
    assert not stopped.returned
    await assert_serves_again(pool, pid)


async def test_a_hang_beyond_the_time_limit_is_a_timeout_and_no_crash(start_pool: StartPool):
    pool = await start_pool(min_step_timeout_s=0.8, load_timeout_s=60)
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    failed = await pool.run("fake:hang", time_limit_s=0.1)
    assert isinstance(failed, TaskFailed)
    assert (failed.error.code, failed.crashed, failed.retry) == ("task_timeout", False, False)
    await assert_serves_again(pool, pid)


async def test_a_killed_worker_reports_its_task_and_comes_back(start_pool: StartPool):
    pool = await start_pool()
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    assignment = await pool.submit("fake:slow_step=1")
    await pool.next(TaskStarted)
    await pool.pool.kill("cpu-0")
    assert_crashed(await pool.end_of(assignment))
    await assert_serves_again(pool, pid)


async def test_running_out_of_memory_once_tiles_the_vae(start_pool: StartPool):
    pool = await start_pool()
    plain = await pool.run("fake:oom=0")
    tiled = await pool.run("fake:oom=1")
    assert isinstance(plain, TaskDone)
    assert isinstance(tiled, TaskDone)
    assert plain.result.degraded == ()
    assert [rung.code for rung in tiled.result.degraded] == ["vae_tiling"]


async def test_running_out_of_memory_twice_evicts_other_models(start_pool: StartPool):
    pool = await start_pool()
    await pool.run(name="other", model=pool.model("other"))
    assert pool.worker().loaded == ("other",)
    done = await pool.run("fake:oom=2")
    assert isinstance(done, TaskDone)
    assert [rung.code for rung in done.result.degraded] == ["vae_tiling", "evicted_models"]
    assert pool.worker().loaded == ("fake",)


async def test_running_out_of_memory_again_and_again_lets_weights_wait_outside(
    start_pool: StartPool,
):
    pool = await start_pool()
    await pool.run(name="other", model=pool.model("other"))
    expected = ["vae_tiling", "evicted_models", "offloaded_networks", "offloaded_layers"]
    done = await pool.run(f"fake:oom={len(expected)}")
    assert isinstance(done, TaskDone)
    assert [rung.code for rung in done.result.degraded] == expected
    # With nothing to evict, that rung is passed over.
    done = await pool.run(f"fake:oom={len(expected) - 1}", name="alone")
    assert isinstance(done, TaskDone)
    expected.remove("evicted_models")
    assert [rung.code for rung in done.result.degraded] == expected


async def test_a_rung_stays_taken_for_the_rest_of_the_task_alone(start_pool: StartPool):
    pool = await start_pool()
    done = await pool.run("fake:oom=1", count=3)
    assert isinstance(done, TaskDone)
    assert [rung.code for rung in done.result.degraded] == ["vae_tiling"]
    after = await pool.run("after")
    assert isinstance(after, TaskDone)
    assert after.result.degraded == ()


async def test_out_of_memory_on_every_rung_fails_the_task_alone(start_pool: StartPool):
    pool = await start_pool()
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    failed = await pool.run("fake:oom=99")
    assert isinstance(failed, TaskFailed)
    assert (failed.error.code, failed.error.params) == ("out_of_memory", {"model": "fake"})
    assert (failed.crashed, failed.retry) == (False, False)
    assert isinstance(await pool.run("next"), TaskDone)
    assert pool.worker().pid == pid


async def test_out_of_memory_while_reading_a_model_evicts_the_others(start_pool: StartPool):
    pool = await start_pool()
    await pool.run()
    failed = await pool.run(name="big", model=pool.model("big", on_load="oom"))
    assert isinstance(failed, TaskFailed)
    assert failed.error.code == "out_of_memory"
    assert isinstance(await pool.run("reloads"), TaskDone)
    loads = [event.model for event in pool.events if isinstance(event, TaskLoading)]
    assert loads == ["fake", "big", "fake"]


@pytest.mark.parametrize("word", ["nan", "constant"])
async def test_an_unusable_picture_is_tried_again_by_a_fresh_process(
    start_pool: StartPool, word: str
):
    pool = await start_pool()
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    failed = await pool.run(f"fake:{word}=1")
    assert isinstance(failed, TaskFailed)
    assert (failed.error.code, failed.crashed, failed.retry) == ("bad_picture", False, True)
    again = await pool.run(f"fake:{word}=1", attempt=2)
    assert isinstance(again, TaskDone)
    assert pool.worker().pid != pid


# Devices


def canary_files(pool: PoolUnderTest) -> list[Path]:
    return list((pool.folder / "run" / "canary").glob("*.json"))


async def test_a_device_that_draws_as_before_serves_after_a_restart(start_pool: StartPool):
    pool = await start_pool()
    await pool.run()
    (canary,) = canary_files(pool)
    recorded = canary.read_text()
    await pool.run("fake:crash")
    assert isinstance(await pool.run("again"), TaskDone)
    assert canary.read_text() == recorded


async def test_a_device_that_draws_otherwise_after_a_restart_is_left_alone(start_pool: StartPool):
    pool = await start_pool()
    await pool.run()
    (canary,) = canary_files(pool)
    canary.write_text(json.dumps({**json.loads(canary.read_text()), "sha256": "0" * 64}))
    await pool.run("fake:crash")
    given_back = await pool.run("again")
    assert isinstance(given_back, TaskStopped)
    assert given_back.returned
    info = await pool.until_state(WorkerState.BROKEN)
    assert "test picture" in info.reason


async def test_two_pools_never_share_a_device(start_pool: StartPool):
    first = await start_pool()
    pid = (await first.until_state(WorkerState.IDLE)).pid
    second = await start_pool()
    info = await second.until_state(WorkerState.BROKEN)
    assert info.reason == f"cpu-0 is in use by process {pid}"
    await first.stop()
    await second.pool.kill("cpu-0")
    await second.until_state(WorkerState.IDLE)
