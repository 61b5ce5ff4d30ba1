"""Starting, restarting and ending: no loops, no orphans, no task forgotten."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from genserve.domain.pool import (
    TaskDone,
    TaskProgress,
    TaskStarted,
    TaskStopped,
    WorkerDown,
    WorkerState,
    WorkerUp,
)
from tests.workers.conftest import (
    PATIENCE_S,
    StartPool,
    is_alive,
    program,
    signal_process,
    until_gone,
)


async def test_a_process_that_dies_on_import_is_not_started_for_ever(start_pool: StartPool):
    pool = await start_pool(command=program("exit_on_import"))
    info = await pool.until_state(WorkerState.BROKEN)
    assert info.reason == "it ended with exit code 1"
    assert info.restarts == 2
    downs = [(await pool.next(WorkerDown)).worker.state for _ in range(3)]
    assert downs == [WorkerState.RESTARTING, WorkerState.RESTARTING, WorkerState.BROKEN]


async def test_one_that_says_it_is_unfit_is_not_started_again(start_pool: StartPool):
    pool = await start_pool(command=program("refuse_start"))
    info = await pool.until_state(WorkerState.BROKEN)
    assert info.restarts == 0
    assert info.reason == "it ended with exit code 3"


async def test_its_reason_is_told(start_pool: StartPool):
    pool = await start_pool(command=program("say_unfit"))
    info = await pool.until_state(WorkerState.BROKEN)
    assert info.reason == "the GPU fell off the bus"
    assert info.restarts == 0


async def test_one_that_never_gets_ready_is_ended(start_pool: StartPool):
    pool = await start_pool(command=program("never_ready"), start_timeout_s=0.2)
    info = await pool.until_state(WorkerState.BROKEN)
    assert "starting took longer than" in info.reason
    assert info.restarts == 2


async def test_a_broken_worker_is_started_again_when_asked(start_pool: StartPool):
    pool = await start_pool(command=program("refuse_start"))
    await pool.until_state(WorkerState.BROKEN)
    await pool.pool.kill("cpu-0")
    await pool.next(WorkerDown)
    await pool.next(WorkerDown)
    assert (await pool.until_state(WorkerState.BROKEN)).restarts == 1


async def test_a_program_that_cannot_be_started_breaks_the_worker(start_pool: StartPool):
    pool = await start_pool(command=("/no/such/program",))
    info = await pool.until_state(WorkerState.BROKEN)
    assert info.reason == "the process cannot be started"


async def test_a_family_that_cannot_be_imported_breaks_the_worker(start_pool: StartPool):
    pool = await start_pool(families=["fake", "paint by numbers"])
    info = await pool.until_state(WorkerState.BROKEN)
    assert info.reason == "there is no family paint by numbers"
    assert info.restarts == 0


@pytest.mark.parametrize("name", ["talk_garbage", "endless_line", "close_pipe"])
async def test_a_process_that_breaks_the_protocol_is_ended(start_pool: StartPool, name: str):
    pool = await start_pool(command=program(name))
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    assignment = await pool.submit()
    assert isinstance(await pool.end_of(assignment), TaskStopped)
    assert pid is not None
    await until_gone(pid)
    await pool.next(WorkerUp)
    await pool.next(WorkerUp)


async def test_what_a_dead_process_started_is_ended_too(start_pool: StartPool, tmp_path: Path):
    numbers = tmp_path / "grandchild"
    pool = await start_pool(command=program("leave_grandchild", str(numbers)))
    await pool.until_state(WorkerState.IDLE)
    grandchild = int(numbers.read_text())
    assert is_alive(grandchild)
    await pool.submit()
    await until_gone(grandchild)


async def test_a_process_gets_its_device_and_no_secrets(
    start_pool: StartPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("API_KEYS_ENCRYPTION_KEY", "secret")
    monkeypatch.setenv("GENSERVE_STORE__URL", "secret")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "the operator's own")
    told = tmp_path / "environment.json"
    pool = await start_pool(command=program("tell_environment", str(told)), threads=3)
    await pool.until_state(WorkerState.IDLE)
    environment = json.loads(told.read_text())
    assert "secret" not in environment.values()
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["PYTORCH_CUDA_ALLOC_CONF"] == "the operator's own"
    assert environment["HOME"]


async def test_a_process_that_ignores_the_stop_is_killed(start_pool: StartPool):
    pool = await start_pool(command=program("ignore_stop"))
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    await pool.stop()
    assert pid is not None
    assert not is_alive(pid)


async def test_a_running_task_may_end_within_the_drain(start_pool: StartPool):
    pool = await start_pool()
    running = await pool.submit("fake:slow_step=0.05")
    await pool.next(TaskStarted)
    await pool.stop(drain_s=60)
    assert isinstance(await pool.end_of(running), TaskDone)
    with pytest.raises(LookupError):
        await pool.pool.submit("cpu-0", pool.assignment("late"))


async def test_no_work_is_taken_while_it_drains(start_pool: StartPool):
    pool = await start_pool(devices="cpu:2")
    await pool.until_state(WorkerState.IDLE, 1)
    await pool.submit("fake:slow_step=0.1")
    stopping = asyncio.create_task(pool.stop(drain_s=60))
    await asyncio.sleep(0)
    with pytest.raises(LookupError):
        await pool.pool.submit("cpu-1", pool.assignment("late"))
    await stopping


async def test_what_outlasts_the_drain_is_given_back(start_pool: StartPool):
    pool = await start_pool()
    running = await pool.submit("fake:slow_step=5")
    await pool.next(TaskStarted)
    await pool.stop(drain_s=0.1)
    stopped = await pool.end_of(running)
    assert isinstance(stopped, TaskStopped)
    assert stopped.returned


async def test_a_second_stop_ends_the_drain(start_pool: StartPool):
    pool = await start_pool()
    running = await pool.submit("fake:slow_step=600")
    await pool.next(TaskStarted)
    first = asyncio.create_task(pool.stop(drain_s=3600))
    await asyncio.sleep(0.05)
    assert not first.done()
    await pool.pool.stop(0)
    await first
    stopped = await pool.end_of(running)
    assert isinstance(stopped, TaskStopped)
    assert stopped.returned


async def test_a_pool_can_be_stopped_while_it_starts(start_pool: StartPool):
    pool = await start_pool()
    await pool.stop()
    assert pool.worker().state is WorkerState.STOPPED


async def test_a_pool_can_be_stopped_while_a_worker_waits_to_restart(start_pool: StartPool):
    pool = await start_pool(restart_min_s=3600, restart_max_s=3600)
    await pool.run("fake:crash")
    await pool.until_state(WorkerState.RESTARTING)
    await pool.stop()
    assert pool.worker().state is WorkerState.STOPPED


async def test_ctrl_c_and_term_are_the_parents_business(start_pool: StartPool):
    pool = await start_pool()
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    running = await pool.submit("fake:slow_step=0.05")
    await pool.next(TaskProgress)
    signal_process(pid, signal.SIGINT)
    signal_process(pid, signal.SIGTERM)
    assert isinstance(await pool.end_of(running), TaskDone)


async def test_no_worker_outlives_a_server_that_is_killed(tmp_path: Path):
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).parent / "programs" / "parent.py"),
        str(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert parent.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        pids = json.loads(await parent.stdout.readline())
    assert len(pids) == 2
    assert all(is_alive(pid) for pid in pids)
    parent.kill()
    await parent.wait()
    for pid in pids:
        await until_gone(pid)
