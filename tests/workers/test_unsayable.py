"""What no message can carry is refused before anything has changed."""

import os

import pytest

from genserve.domain.model import ModelSpec
from genserve.domain.pool import TaskDone, WorkerState
from tests.workers.conftest import PoolUnderTest, StartPool


def unsayable(pool: PoolUnderTest) -> ModelSpec:
    """Its folder's name is not UTF-8, which JSON is."""
    folder = pool.folder / os.fsdecode("模型".encode("gbk"))
    return pool.model().model_copy(update={"folder": folder})


async def test_a_worker_stays_idle_when_its_task_cannot_be_told(start_pool: StartPool):
    pool = await start_pool()
    pid = (await pool.until_state(WorkerState.IDLE)).pid
    with pytest.raises(ValueError, match="utf-8"):
        await pool.submit(model=unsayable(pool))
    with pytest.raises(ValueError, match="utf-8"):
        await pool.pool.prepare("cpu-0", unsayable(pool))
    worker = pool.worker()
    assert (worker.state, worker.task_id, worker.loading) == (WorkerState.IDLE, None, "")
    assert isinstance(await pool.run(), TaskDone)
    assert pool.worker().pid == pid
