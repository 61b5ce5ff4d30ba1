"""A server in small: two workers, one busy in Python and one in C. Waits to be killed."""

import asyncio
import json
import sys
from pathlib import Path

from genserve.config import Pool
from genserve.domain.model import ModelSpec
from genserve.domain.pool import Assignment, TaskStarted, WorkerUp
from genserve.domain.request import GenerationRequest
from genserve.workers.pool import LocalPool


async def main(folder: Path) -> None:
    pool = LocalPool(Pool(devices="cpu:2"), run_folder=folder)
    await pool.start()
    started: list[int | None] = []
    prompts = ["fake:hang", "fake:hang_in_c"]
    async for event in pool.events():
        if isinstance(event, WorkerUp):
            await pool.submit(event.worker.id, assignment(prompts.pop(), folder))
        if isinstance(event, TaskStarted):
            started.append(next(w.pid for w in pool.workers() if w.id == event.worker))
        if len(started) == 2:
            break
    print(json.dumps(started), flush=True)
    await asyncio.sleep(3600)


def assignment(prompt: str, folder: Path) -> Assignment:
    model = ModelSpec(id="fake", family="fake", folder=folder)
    request = GenerationRequest(
        model="fake", prompt=prompt, width=64, height=64, steps=1, guidance=1, scheduler="euler"
    )
    return Assignment(
        task_id=prompt,
        attempt=1,
        token=prompt,
        epoch=1,
        request=request,
        model=model,
        time_limit_s=3600,
        output_folder=str(folder),
    )


asyncio.run(main(Path(sys.argv[1])))
