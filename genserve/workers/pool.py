"""The pool of this machine: one worker for each device."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from genserve.config import Pool
from genserve.config_sources import inherited_environment
from genserve.domain.model import ModelSpec
from genserve.domain.pool import Assignment, PoolEvent, WorkerInfo
from genserve.workers import devices
from genserve.workers.deadlines import StepTimes
from genserve.workers.process import child_environment
from genserve.workers.surroundings import Surroundings
from genserve.workers.worker import LocalWorker

CHILD = (sys.executable, "-m", "genserve.workers.child")
_TUNING = {
    # Against fragmentation of GPU memory.
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    # Waiting threads sleep. While they spin, a core that is shared with anything else makes every
    # step wait for the kernel's next time slice: 20 steps took 14 s instead of 0.25 s.
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""For every process; the operator's own values win."""

MEMORY_EVERY_S = 2.0
"""How old the workers' memory figures may be."""

log = logging.getLogger(__name__)


class LocalPool:
    """Implements `domain.pool.WorkerPool` with processes on this machine."""

    def __init__(
        self,
        settings: Pool,
        *,
        run_folder: Path,
        families: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = CHILD,
    ) -> None:
        """Nothing is started yet.

        `run_folder` holds the devices' locks and the canaries; two pools with the same one never
        share a device. `families` are imported by each process before it is ready, so that its
        first task need not wait for that. `environment` is what processes inherit; absent: this
        process's own without its secrets. `command` is what a worker process runs.
        """
        inherited = inherited_environment() if environment is None else environment
        self._events: asyncio.Queue[PoolEvent | None] = asyncio.Queue()
        around = Surroundings(
            settings=settings,
            command=command,
            environment=child_environment({**_TUNING, **inherited}),
            families=tuple(families),
            run_folder=run_folder.absolute(),
            step_times=StepTimes(
                min_timeout_s=settings.min_step_timeout_s, factor=settings.step_timeout_factor
            ),
            emit=self._events.put_nowait,
        )
        chosen = devices.choose(settings, inherited, devices.installed_gpus())
        self._workers = {device.name: LocalWorker(device, around) for device in chosen}
        self._lives: list[asyncio.Task[None]] = []
        self._sampling: asyncio.Task[None] | None = None
        self._stopping = False
        self._hurry = asyncio.Event()

    async def start(self) -> None:
        """Start every worker; returns at once, `WorkerUp` follows for each."""
        for worker in self._workers.values():
            life = asyncio.create_task(worker.live(), name=f"worker.{worker.id}")
            life.add_done_callback(partial(_on_life_ended, worker))
            self._lives.append(life)
        self._sampling = asyncio.create_task(self._sample_memory(), name="pool.memory")

    async def _sample_memory(self) -> None:
        """Now and then, so that asking for the workers' state never asks a driver."""
        while True:
            for worker in self._workers.values():
                await worker.sample_memory()
            await asyncio.sleep(MEMORY_EVERY_S)

    def workers(self) -> tuple[WorkerInfo, ...]:
        """The workers as they are now."""
        return tuple(worker.info() for worker in self._workers.values())

    async def submit(self, worker_id: str, assignment: Assignment) -> None:
        """Give an idle worker its next task. Raises `LookupError` when it is not idle."""
        self._workers[worker_id].submit(assignment)

    async def cancel(self, worker_id: str, task_id: str, attempt: int) -> None:
        """Stop a task at its next step; `TaskStopped` or `TaskDone` follows."""
        self._workers[worker_id].cancel(task_id, attempt)

    async def kill(self, worker_id: str) -> None:
        """End the worker's process at once; its task is reported, and it is started again."""
        self._workers[worker_id].kill()

    async def prepare(self, worker_id: str, model: ModelSpec) -> None:
        """Read a model ahead of demand. Raises `LookupError` when the worker is not idle."""
        self._workers[worker_id].prepare(model)

    async def unload(self, worker_id: str, model_id: str) -> None:
        """Give back a model's memory: at once when idle, otherwise after what it is busy with."""
        self._workers[worker_id].unload(model_id)

    async def events(self) -> AsyncIterator[PoolEvent]:
        """Everything that happens, once, in order; ends when the pool has stopped."""
        while (event := await self._events.get()) is not None:
            yield event

    async def stop(self, drain_s: float) -> None:
        """Let running tasks end for `drain_s` seconds, give the rest back, end every process.

        Calling it again while it drains ends the draining at once.
        """
        if self._stopping:
            self._hurry.set()
            await asyncio.gather(*self._lives, return_exceptions=True)
            return
        self._stopping = True
        for worker in self._workers.values():
            worker.refuse_work()
        await self._drain(drain_s)
        for worker in self._workers.values():
            worker.end()
        await asyncio.gather(*self._lives, return_exceptions=True)
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.gather(self._sampling, return_exceptions=True)
        self._events.put_nowait(None)

    async def _drain(self, drain_s: float) -> None:
        """Until every worker is free, the time is over, or somebody is in a hurry."""
        waits = {
            asyncio.create_task(self._all_free(), name="pool.free"),
            asyncio.create_task(self._in_a_hurry(), name="pool.hurry"),
        }
        await asyncio.wait(waits, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    async def _all_free(self) -> None:
        for worker in self._workers.values():
            await worker.wait_free()

    async def _in_a_hurry(self) -> None:
        await self._hurry.wait()


def _on_life_ended(worker: LocalWorker, life: asyncio.Task[None]) -> None:
    """A worker's supervision never ends by an error of its own; should it, say so and give up."""
    if not life.cancelled() and (error := life.exception()) is not None:
        log.critical("%s is no longer looked after", worker.id, exc_info=error)
        worker.abandon()
