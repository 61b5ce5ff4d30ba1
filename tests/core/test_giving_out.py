"""What cannot be handed to a worker ends, and costs no worker."""

import asyncio
import os
from pathlib import Path

from genserve.domain.pool import WorkerState
from genserve.domain.task import ErrorInfo, TaskState
from genserve.errors import GenServeError
from tests.core.conftest import Start, asks, caller


async def test_a_task_that_no_message_can_carry_ends_and_frees_its_worker(
    start: Start, tmp_path: Path
):
    """Messages are JSON, and so UTF-8, which a path need not be."""
    runtime = await start(models_dir=tmp_path / os.fsdecode("模型".encode("gbk")))
    me = caller(runtime)
    for _ in range(2):  # the second one needs the worker that the first one was to have
        submitted = await runtime.service.submit(me, asks(), dialect="test")
        async with asyncio.timeout(60):
            task = await runtime.service.wait(submitted.task.id)
        assert task.state is TaskState.FAILED
        assert task.error == ErrorInfo.of(GenServeError())
    assert [worker.state for worker in runtime.pool.workers()] == [WorkerState.IDLE]
