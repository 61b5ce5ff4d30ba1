"""Gives work to workers and books what comes of it.

Two loops on one event loop. `_assign` wakes when a task arrives or a worker becomes idle, and
claims the next task for it (see claims.py). `_follow` reads the pool's events and has each outcome
booked.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, assert_never

from genserve.config import Queue
from genserve.core import policy
from genserve.core.booking import Booking, Running
from genserve.core.claims import UNREADABLE, Claimed, Claims, Means, Unreadable
from genserve.core.hub import Hub
from genserve.core.live_catalog import LiveCatalog
from genserve.core.metrics import Metrics
from genserve.core.outgrown import Outgrown
from genserve.core.residency import Residency
from genserve.domain.events import Failed, Loading, Progress, Started
from genserve.domain.model import ModelSpec
from genserve.domain.pool import (
    Assignment,
    ModelNotLoaded,
    PoolEvent,
    TaskDone,
    TaskFailed,
    TaskLoading,
    TaskProgress,
    TaskStarted,
    TaskStopped,
    WorkerChanged,
    WorkerDown,
    WorkerInfo,
    WorkerPool,
    WorkerState,
    WorkerUp,
)
from genserve.domain.task import ErrorInfo, Outcome
from genserve.errors import GenServeError, ModelBroken, StoreUnavailable
from genserve.store import tasks
from genserve.store.blobs import BlobStore
from genserve.store.database import Clock, Database

log = logging.getLogger(__name__)

RETRY_S = 1.0
"""After which the queue is read again when that failed."""
LAST_BOOKINGS_S = 10.0
"""How long a shutdown waits for the database to take what came of the last tasks."""


class Dispatcher:
    """Moves tasks between the queue and one pool. Construct, `start`, `stop`."""

    def __init__(
        self,
        *,
        db: Database,
        pool: WorkerPool,
        catalogs: LiveCatalog,
        hub: Hub,
        metrics: Metrics,
        blobs: BlobStore,
        queue: Queue,
        preload: Sequence[ModelSpec],
        epoch: int,
        clock: Clock,
        previews: bool = True,
    ) -> None:
        self._db = db
        self._previews = previews
        self._pool = pool
        self._catalogs = catalogs
        self._hub = hub
        self._blobs = blobs
        self._queue = queue
        self.residency = Residency(pool, preload=preload, wake=self.wake)
        self._epoch = epoch
        self._clock = clock
        self._claims = Claims(db=db, catalogs=catalogs, queue=queue, epoch=epoch, clock=clock)
        self._news = asyncio.Event()
        self._running: dict[str, Running] = {}
        self.outgrown = Outgrown(pool)
        self._bookings: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._booking = Booking(db=db, hub=hub, metrics=metrics, clock=clock)

    async def start(self) -> None:
        """Put back what an earlier run left in work, then start both loops."""
        recovered = await self._booking.book(partial(tasks.recover, now=self._clock()))
        if recovered:
            log.info("put %d interrupted tasks back into the queue", len(recovered))
        self._loops = [
            asyncio.create_task(self._assign(), name="dispatcher.assign"),
            asyncio.create_task(self._follow(), name="dispatcher.follow"),
        ]
        self.wake()

    async def stop(self, drain_s: float) -> None:
        """Give out nothing more, let running tasks end for `drain_s`, book what came of them."""
        for loop in self._loops[:1]:
            loop.cancel()
        await self._pool.stop(drain_s)
        await asyncio.gather(*self._loops, return_exceptions=True)
        if self._bookings:
            _, late = await asyncio.wait(self._bookings, timeout=LAST_BOOKINGS_S)
            for booking in late:  # the database refuses it: the next start puts the task back
                booking.cancel()

    def wake(self) -> None:
        """There may be something to give out."""
        self._news.set()

    async def cancel(self, task_id: str) -> None:
        """Stop a task at its next step. Of one that is not worked on, forget what is remembered."""
        running = self._running.get(task_id)
        if running is None:
            self.outgrown.forget(task_id)
            return
        running.cancel = True
        if running.submitted:
            await self._pool.cancel(running.worker_id, task_id, running.task.attempt)

    @property
    def mean_task_s(self) -> float | None:
        """How long tasks have taken lately; None before the first."""
        return self._booking.mean_task_s

    # Giving out

    async def _assign(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._assign_all()
            except StoreUnavailable as error:
                log.warning("cannot read the queue: %s", error)
                self._wake_later()
            except Exception:  # whatever it was, the queue must go on
                log.exception("cannot give out work")
                self._wake_later()

    async def _assign_all(self) -> None:
        """Until nobody is idle or nothing waits."""
        while idle := await self.residency.tend(self._idle()):
            claimed = await self._claims.next(idle, needs=self.outgrown.needs())
            if claimed is None:
                await self.residency.preload(idle)
                return
            if isinstance(claimed, Unreadable):
                about = {"task_id": claimed.task_id}
                log.error("a stored task cannot be read any more and was ended", extra=about)
                self._hub.publish(claimed.task_id, 0, Failed(error=UNREADABLE))
            else:
                await self._give(claimed)

    def _wake_later(self) -> None:
        asyncio.get_running_loop().call_later(RETRY_S, self.wake)

    def _idle(self) -> list[WorkerInfo]:
        busy = {running.worker_id for running in self._running.values()}
        return [
            worker
            for worker in self._pool.workers()
            if worker.state is WorkerState.IDLE and worker.id not in busy
        ]

    async def _give(self, claimed: Claimed) -> None:
        running = Running(claimed.task, claimed.token, claimed.worker_id)
        self._running[running.task.id] = running
        if claimed.means is None:
            self._fail(running, claimed.error or GenServeError())
            return
        try:
            assignment = self._assignment(running, claimed.means)
            await self._pool.submit(claimed.worker_id, assignment)
        except LookupError:  # the worker went down since it was chosen
            self._release(running)
            self._later(self._put_back(running, crashed=False))
        except Exception:  # the task's edge: it must end, and its worker take the next one
            log.exception("cannot give out a task", extra={"task_id": running.task.id})
            self._fail(running, GenServeError())
        else:
            running.submitted = True
            if running.cancel:
                await self._pool.cancel(running.worker_id, running.task.id, running.task.attempt)

    def _fail(self, running: Running, error: GenServeError) -> None:
        """It never reached its worker."""
        self.outgrown.forget(running.task.id)
        self._release(running)
        self._later(self._booking.failed(running, ErrorInfo.of(error), Outcome.FAILED))

    def _assignment(self, running: Running, means: Means) -> Assignment:
        request = running.task.resolved or running.task.asked
        return Assignment(
            task_id=running.task.id,
            attempt=running.task.attempt,
            token=running.token,
            epoch=self._epoch,
            request=request,
            model=means.spec,
            preprocessor=means.preprocessor,
            time_limit_s=self._queue.time_limit_s,
            previews=self._previews and request.preview,
            inputs={file.sha256: str(self._blobs.path(file.sha256)) for file in request.files()},
            loras=means.loras,
            output_folder=str(self._blobs.folder),
            degraded=self.outgrown.degraded(running.task.id),
        )

    # Following up

    async def _follow(self) -> None:
        async for event in self._pool.events():
            try:
                self._handle(event)
            except Exception:  # one event that goes wrong must not silence those that follow
                log.exception("cannot handle what a worker told")

    def _handle(self, event: PoolEvent) -> None:
        match event:
            case WorkerUp() | WorkerChanged() | WorkerDown() | ModelNotLoaded():
                self.residency.noticed(event)
                self.wake()
            case TaskLoading():
                self._tell(event, Loading(model=event.model))
            case TaskStarted():
                self._tell(event, Started(worker=event.worker, attempt=event.attempt))
                self._begin(event)
            case TaskProgress():
                progress = Progress(step=event.step, total=event.total, preview=event.preview)
                self._tell(event, progress)
            case TaskDone() | TaskFailed() | TaskStopped():
                running = self._running.get(event.task_id)
                if running is None or running.token != event.token:
                    log.warning("ignored a late result", extra={"task_id": event.task_id})
                    return
                self._later(self._end(running, event))
            case _:
                assert_never(event)

    def _begin(self, event: TaskStarted) -> None:
        running = self._running.get(event.task_id)
        if running is not None:
            self._later(self._booking.started(running))

    def _tell(
        self, about: TaskLoading | TaskStarted | TaskProgress, event: Loading | Started | Progress
    ) -> None:
        running = self._running.get(about.task_id)
        if running is not None and running.task.attempt == about.attempt:
            self._hub.publish(about.task_id, about.attempt, event)

    async def _end(self, running: Running, event: TaskDone | TaskFailed | TaskStopped) -> None:
        try:
            await self._end_as_told(running, event)
        except Exception:  # the task's edge: it must end, and its clients must hear of it
            log.exception("cannot book a task's end", extra={"task_id": running.task.id})
            error = ErrorInfo.of(GenServeError())
            await self._booking.failed(running, error, Outcome.FAILED)

    async def _end_as_told(
        self, running: Running, event: TaskDone | TaskFailed | TaskStopped
    ) -> None:
        # The worker is free before the commit: the next task need not wait for this one's fsync.
        self._release(running)
        match event:
            case TaskDone():
                self.outgrown.forget(running.task.id)
                await self._booking.done(running, event.result)
            case TaskFailed():
                await self._end_failed(running, event)
            case TaskStopped() if event.returned:
                await self._put_back(running, crashed=False)
            case TaskStopped():
                self.outgrown.forget(running.task.id)
                await self._booking.cancelled(running)
            case _:
                assert_never(event)

    async def _end_failed(self, running: Running, event: TaskFailed) -> None:
        task = running.task
        about = {"task_id": task.id, "worker": event.worker, "code": event.error.code}
        log.warning("an attempt failed", extra=about)
        decision = policy.after_failure(
            event,
            crashes=task.crashes,
            poison_after=self._queue.poison_after,
            has_larger=self.outgrown.has_larger(task.id, event.worker, event.error),
        )
        if isinstance(decision, policy.Requeue):
            await asyncio.sleep(decision.after_s)
            await self._put_back(running, crashed=decision.crashed)
        else:
            self.outgrown.forget(task.id)
            outcome = Outcome.LOST if event.crashed else Outcome.FAILED
            await self._booking.failed(running, await self._explained(decision.error), outcome)

    async def _explained(self, error: ErrorInfo) -> ErrorInfo:
        """Files that broke since they were looked at: which one, and what to do."""
        if error.code != ModelBroken.code:
            return error
        model = str(error.params["model"])
        problem = await self._catalogs.problem_of(model)
        return error if problem is None else ErrorInfo.of(ModelBroken(model=model, reason=problem))

    async def _put_back(self, running: Running, *, crashed: bool) -> None:
        if await self._booking.put_back(running, crashed=crashed):
            self.wake()

    def _release(self, running: Running) -> None:
        if self._running.get(running.task.id) is running:
            del self._running[running.task.id]
        self.wake()

    def _later(self, booking: Coroutine[Any, Any, None]) -> None:
        """Book beside the loops, so that bookings of several workers share a commit."""
        task = asyncio.create_task(booking)
        self._bookings.add(task)
        task.add_done_callback(self._booked)

    def _booked(self, booking: asyncio.Task[None]) -> None:
        self._bookings.discard(booking)
        if not booking.cancelled() and (error := booking.exception()) is not None:
            log.error("a booking failed", exc_info=error)
