"""Books what came of a task, and tells its watchers once the booking holds.

A booking that the database refuses is tried again until it holds, so a finished picture is never
dropped. One that is fenced off (another attempt has the task) changes nothing and tells nobody.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection

from genserve.core.hub import Hub
from genserve.core.metrics import Metrics
from genserve.domain.events import Cancelled, Failed, Finished
from genserve.domain.task import ErrorInfo, Outcome, Result, Task, TaskState
from genserve.errors import StoreUnavailable
from genserve.store import tasks
from genserve.store.database import Clock, Database

log = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_S = (0.1, 5.0)
"""First and longest pause before a refused booking is tried again."""
MEAN_WEIGHT = 0.2
"""Weight of the newest task in the moving mean behind ETAs."""


@dataclass(slots=True)
class Running:
    """A task that a worker has. `cancel`: somebody asked for its end."""

    task: Task
    token: str
    worker_id: str
    submitted: bool = False
    cancel: bool = False


class Booking:
    """One verb for each way in which an attempt can end."""

    def __init__(self, *, db: Database, hub: Hub, metrics: Metrics, clock: Clock) -> None:
        self._db = db
        self._hub = hub
        self._metrics = metrics
        self._clock = clock
        self.mean_task_s: float | None = None

    async def started(self, running: Running) -> None:
        """Work on the picture began. Not durable: a lost start is only a time that is missing."""
        move = partial(
            tasks.started, task_id=running.task.id, token=running.token, now=self._clock()
        )
        await self.book(move, durable=False)

    async def done(self, running: Running, result: Result) -> None:
        """The pictures lie in the blob folder."""
        task, now = running.task, self._clock()
        move = partial(tasks.finish, task_id=task.id, token=running.token, result=result, now=now)
        if not await self.book(move):
            log.warning(
                "a result was refused: another attempt has the task", extra={"task_id": task.id}
            )
            return
        self._learn(result.generation_s)
        waited_s = now - task.created_at.timestamp() - result.generation_s - result.load_s
        self._metrics.observe_done(task, task.resolved or task.asked, result, waited_s)
        self._hub.publish(task.id, task.attempt, Finished())

    async def failed(self, running: Running, error: ErrorInfo, outcome: Outcome) -> None:
        """The task ends badly."""
        task = running.task
        move = partial(
            tasks.fail,
            task_id=task.id,
            token=running.token,
            error=error,
            now=self._clock(),
            outcome=outcome,
        )
        if await self.book(move):
            self._metrics.observe_ended(task.asked.model, TaskState.FAILED)
            self._hub.publish(task.id, task.attempt, Failed(error=error))

    async def cancelled(self, running: Running) -> None:
        """The worker has stopped because somebody asked for it."""
        task = running.task
        move = partial(tasks.cancelled, task_id=task.id, token=running.token, now=self._clock())
        if await self.book(move):
            self._tell_cancelled(task)

    async def put_back(self, running: Running, *, crashed: bool) -> bool:
        """Back into the queue; cancelled instead when somebody has asked for its end.

        Returns whether it waits again.
        """
        task = running.task
        move = partial(
            tasks.requeue, task_id=task.id, token=running.token, now=self._clock(), crashed=crashed
        )
        if await self.book(move) is not None:
            self._metrics.observe_requeue(crashed=crashed)
            self._hub.forget(task.id)
            return True
        stored = await asyncio.wrap_future(self._db.read(partial(tasks.get, task_id=task.id)))
        if stored is not None and stored.state is TaskState.CANCELLED:
            self._tell_cancelled(task)
        return False

    async def book(self, move: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Write until the database takes it."""
        pause_s, longest_s = RETRY_S
        while True:
            try:
                return await asyncio.wrap_future(self._db.write(move, durable=durable))
            except StoreUnavailable as error:
                log.warning("cannot book, trying again in %.1f s: %s", pause_s, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, longest_s)

    def _tell_cancelled(self, task: Task) -> None:
        self._metrics.observe_ended(task.asked.model, TaskState.CANCELLED)
        self._hub.publish(task.id, task.attempt, Cancelled())

    def _learn(self, task_s: float) -> None:
        old = self.mean_task_s
        self.mean_task_s = task_s if old is None else old + MEAN_WEIGHT * (task_s - old)
