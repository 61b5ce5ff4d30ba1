"""A pool on the fake family with real processes, and what it told."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from genserve.config import Pool
from genserve.domain.model import ModelSpec
from genserve.domain.pool import (
    Assignment,
    PoolEvent,
    TaskDone,
    TaskFailed,
    TaskStopped,
    WorkerInfo,
    WorkerState,
)
from genserve.domain.request import GenerationRequest
from genserve.workers.pool import CHILD, LocalPool

PROGRAMS = Path(__file__).parent / "programs"
PATIENCE_S = 60
"""No test waits so long; it ends one whose event never comes."""

E = TypeVar("E", bound=PoolEvent)


class PoolUnderTest:
    """A started pool whose events are kept in order."""

    def __init__(self, pool: LocalPool, folder: Path) -> None:
        self.pool = pool
        self.folder = folder
        self.events: list[PoolEvent] = []
        self._news = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())
        self._seen = 0

    async def _read(self) -> None:
        async for event in self.pool.events():
            async with self._news:
                self.events.append(event)
                self._news.notify_all()

    async def next(self, kind: type[E], where: Callable[[E], bool] = lambda _: True) -> E:
        """The next event of that kind after the last one that was waited for."""
        async with asyncio.timeout(PATIENCE_S), self._news:
            while True:
                for number in range(self._seen, len(self.events)):
                    event = self.events[number]
                    if isinstance(event, kind) and where(event):
                        self._seen = number + 1
                        return event
                self._seen = len(self.events)
                await self._news.wait()

    def worker(self, number: int = 0) -> WorkerInfo:
        return self.pool.workers()[number]

    async def until_state(self, state: WorkerState, number: int = 0) -> WorkerInfo:
        """Wait for the worker's state; what events say may be older."""
        async with asyncio.timeout(PATIENCE_S):
            while self.worker(number).state is not state:
                await asyncio.sleep(0.005)
        return self.worker(number)

    def assignment(
        self, prompt: str = "hello", *, attempt: int = 1, time_limit_s: float = 60, **asked: Any
    ) -> Assignment:
        model = asked.pop("model", self.model())
        task_id = f"task-{asked.pop('name', prompt)}"
        values = {
            "model": model.id,
            "prompt": prompt,
            "width": 64,
            "height": 64,
            "seed": 7,
            "steps": 4,
            "guidance": 3.5,
            "scheduler": "euler",
        }
        return Assignment(
            task_id=task_id,
            attempt=attempt,
            token=f"token-{task_id}-{attempt}",
            epoch=1,
            request=GenerationRequest.model_validate(values | asked),
            model=model,
            time_limit_s=time_limit_s,
            output_folder=str(self.folder / "blobs"),
        )

    def model(self, name: str = "fake", **options: Any) -> ModelSpec:
        return ModelSpec(id=name, family="fake", folder=self.folder / name, options=options)

    async def submit(self, prompt: str = "hello", **asked: Any) -> Assignment:
        """Give the first worker a task as soon as it is idle."""
        info = await self.until_state(WorkerState.IDLE)
        assignment = self.assignment(prompt, **asked)
        await self.pool.submit(info.id, assignment)
        return assignment

    async def run(self, prompt: str = "hello", **asked: Any) -> TaskDone | TaskFailed | TaskStopped:
        """Give the first worker a task and wait for its end."""
        assignment = await self.submit(prompt, **asked)
        return await self.end_of(assignment)

    async def end_of(self, assignment: Assignment) -> TaskDone | TaskFailed | TaskStopped:
        async with asyncio.timeout(PATIENCE_S), self._news:
            while not (ends := self.ends(assignment)):
                await self._news.wait()
        return ends[0]

    def ends(self, assignment: Assignment) -> list[TaskDone | TaskFailed | TaskStopped]:
        """Every final event of that attempt: there must be one."""
        return [
            event
            for event in self.events
            if isinstance(event, TaskDone | TaskFailed | TaskStopped)
            and event.token == assignment.token
        ]

    async def stop(self, drain_s: float = 0) -> None:
        await self.pool.stop(drain_s)
        await self._reader


StartPool = Callable[..., Awaitable[PoolUnderTest]]


@pytest.fixture
async def start_pool(tmp_path: Path) -> AsyncIterator[StartPool]:
    """Starts pools with short deadlines, and stops them; no process may be left."""
    started: list[PoolUnderTest] = []

    async def start(
        *,
        command: Sequence[str] = CHILD,
        families: Sequence[str] = (),
        devices: str = "cpu:1",
        **settings: Any,
    ) -> PoolUnderTest:
        quick: dict[str, Any] = {
            "devices": devices,
            "threads": 1,
            "restart_min_s": 0.01,
            "restart_max_s": 0.1,
        }
        pool = LocalPool(
            Pool.model_validate(quick | settings),
            run_folder=tmp_path / "run",
            families=families,
            command=command,
        )
        await pool.start()
        started.append(PoolUnderTest(pool, tmp_path))
        return started[-1]

    yield start
    for pool in started:
        await pool.stop()
        for event in pool.events:
            pid = event.worker.pid if hasattr(event.worker, "pid") else None
            assert pid is None or not is_alive(pid)


def program(name: str, *arguments: str) -> tuple[str, ...]:
    """The command line of a misbehaving child."""
    return (sys.executable, str(PROGRAMS / f"{name}.py"), *arguments)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, zombies aside."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def until_gone(pid: int) -> None:
    """Wait for a process to end."""
    async with asyncio.timeout(PATIENCE_S):
        while is_alive(pid):
            await asyncio.sleep(0.01)


def blob(assignment: Assignment, sha256: str) -> bytes:
    return (Path(assignment.output_folder) / sha256[:2] / sha256).read_bytes()


def signal_process(pid: int | None, number: int) -> None:
    assert pid is not None
    os.kill(pid, number)
