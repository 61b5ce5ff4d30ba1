"""One side of a comparison: a model drawn by a fresh worker process, timed from outside."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from genserve.config import Pool
from genserve.config_sources import inherited_environment
from genserve.domain.model import ModelSpec
from genserve.domain.pool import (
    Assignment,
    PoolEvent,
    TaskDone,
    TaskFailed,
    TaskStopped,
    WorkerDown,
    WorkerUp,
)
from genserve.domain.request import GenerationRequest
from genserve.domain.task import Result
from genserve.errors import CommandFailed
from genserve.workers.devices import Device
from genserve.workers.pool import LocalPool

PATIENCE_S = 6 * 3600.0
"""A benchmark waits for what a server would give up: whoever has no patience presses Ctrl-C."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Drawn:
    """One finished task, and how long it took from being given to the worker to its end."""

    took_s: float
    result: Result


@dataclass(frozen=True, slots=True)
class Side:
    """What one side measured. `first` read the model; the others found it in memory.

    `whole` have all steps, `short` one step: the difference is what steps take.
    """

    first: Drawn
    whole: Sequence[Drawn]
    short: Sequence[Drawn]
    steps: int
    stage: str | None = None
    """What counts of a task: this stage alone, or all of it."""

    @property
    def load_s(self) -> float:
        """From an empty worker to a model in its memory."""
        return self.first.result.load_s

    @property
    def first_s(self) -> float:
        """The first picture, once the model is there: it compiles and warms caches."""
        if self.stage is not None:
            return self.first.result.stages_s[self.stage]
        return self.first.took_s - self.load_s

    @property
    def picture_s(self) -> float:
        """The median picture."""
        return median(map(self._counted_s, self.whole))

    @property
    def short_s(self) -> float:
        """The median picture of one step."""
        return median(map(self._counted_s, self.short))

    @property
    def step_s(self) -> float:
        """One step. From two medians, since a GPU works on while the program is elsewhere."""
        return (self.picture_s - self.short_s) / (self.steps - 1)

    @property
    def peak_bytes(self) -> int:
        """The most memory that drawing took, with the model in memory before."""
        return max(drawn.result.peak_bytes or 0 for drawn in (*self.whole, *self.short))

    @property
    def loading_peak_bytes(self) -> int:
        """The most memory that reading the model and the first picture took."""
        return self.first.result.peak_bytes or 0

    @property
    def degraded(self) -> set[str]:
        """What was done for lack of memory, by the ladder's codes."""
        every = (self.first, *self.whole, *self.short)
        return {rung.code for drawn in every for rung in drawn.result.degraded}

    def _counted_s(self, drawn: Drawn) -> float:
        return drawn.took_s if self.stage is None else drawn.result.stages_s[self.stage]


@dataclass(frozen=True, slots=True)
class Work:
    """What a side is to draw: `request` is complete, `inputs` are its pictures' files by name."""

    spec: ModelSpec
    request: GenerationRequest
    inputs: dict[str, str]
    runs: int


async def measure(
    work: Work, device: Device, folder: Path, tell: Tell, *, stage: str | None = None
) -> Side:
    """Draw with a worker of its own, which is gone afterwards, with all of its memory.

    Raises `CommandFailed` when the worker or one of its tasks fails.
    """
    steps = work.request.steps or 1
    async with _worker(work.spec, device, folder) as worker:
        tell("the first picture, and before it the model")
        first = await worker.draw(work, steps)
        whole, short = [], []
        for number in range(work.runs):
            tell(f"picture {number + 1} of {work.runs}")
            whole.append(await worker.draw(work, steps))
            short.append(await worker.draw(work, 1))
        return Side(first, whole, short, steps, stage)


class _Worker:
    """A pool of one worker, asked for one picture after the other."""

    def __init__(self, pool: LocalPool, events: AsyncIterator[PoolEvent], folder: Path) -> None:
        self._pool = pool
        self._events = events
        self._folder = folder
        self._number = 0

    async def up(self) -> None:
        """Until it can work. Raises `CommandFailed`."""
        await self._next(WorkerUp)

    async def draw(self, work: Work, steps: int) -> Drawn:
        """One picture. Raises `CommandFailed`."""
        self._number += 1
        assignment = Assignment(
            task_id=f"picture-{self._number}",
            attempt=1,
            token=f"token-{self._number}",
            epoch=1,
            request=work.request.model_copy(update={"steps": steps}),
            model=work.spec,
            time_limit_s=PATIENCE_S,
            inputs=work.inputs,
            output_folder=str(self._folder / "blobs"),
        )
        (info,) = self._pool.workers()
        began_at = time.perf_counter()
        await self._pool.submit(info.id, assignment)
        done = await self._next(TaskDone)
        assert isinstance(done, TaskDone)
        return Drawn(time.perf_counter() - began_at, done.result)

    async def _next(self, wanted: type[WorkerUp] | type[TaskDone]) -> PoolEvent:
        async for event in self._events:
            if isinstance(event, wanted):
                return event
            if isinstance(event, TaskFailed):
                raise CommandFailed(problem=event.error.told().detail("en"))
            if isinstance(event, WorkerDown):
                raise CommandFailed(problem=f"the worker process ended: {event.worker.reason}")
            if isinstance(event, TaskStopped):
                break
        raise CommandFailed(problem="the worker was stopped")


@asynccontextmanager
async def _worker(spec: ModelSpec, device: Device, folder: Path) -> AsyncGenerator[_Worker]:
    settings = Pool(
        devices="auto" if device.kind == "cuda" else "cpu:1",
        start_timeout_s=PATIENCE_S,
        load_timeout_s=PATIENCE_S,
        min_step_timeout_s=PATIENCE_S,
        decode_timeout_s=PATIENCE_S,
    )
    pool = LocalPool(
        settings,
        run_folder=folder / "run",
        families=(spec.family,),
        environment={**inherited_environment(), "CUDA_VISIBLE_DEVICES": device.visible},
    )
    await pool.start()
    try:
        worker = _Worker(pool, pool.events(), folder)
        await worker.up()
        yield worker
    finally:
        await pool.stop(drain_s=0)
