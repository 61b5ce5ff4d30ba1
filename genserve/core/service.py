"""What every dialect asks of the server: accept a task, wait for it, show it, stop it."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from genserve.config import Queue
from genserve.core import policy
from genserve.core.claims import LOCAL
from genserve.core.dispatcher import Dispatcher
from genserve.core.hub import Hub, Subscription
from genserve.core.live_catalog import LiveCatalog
from genserve.core.metrics import Metrics
from genserve.domain.caller import Caller
from genserve.domain.events import (
    Cancelled,
    Failed,
    Finished,
    Queued,
    TaskEvent,
    is_final,
)
from genserve.domain.pool import WorkerInfo, WorkerPool, WorkerState
from genserve.domain.request import MAX_SEED, FileRef, GenerationRequest
from genserve.domain.task import ErrorInfo, Task, TaskState, new_task_id
from genserve.errors import (
    NotReady,
    PriorityForbidden,
    ShuttingDown,
    TaskAlreadyEnded,
    TaskNotFound,
)
from genserve.store import tasks
from genserve.store.blobs import BlobStore
from genserve.store.database import Clock, Database
from genserve.workers.decoder import ImageDecoder

LOWEST_PRIORITY = -100
"""The most urgent priority there is."""
POSITION_EVERY_S = 2.0
"""How often a watcher of a waiting task is told its position, when that changed."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """An accepted task; `replayed` when an Idempotency-Key led to an earlier one."""

    task: Task
    replayed: bool


@dataclass(frozen=True, slots=True)
class InputPicture:
    """A caller's picture, decoded and normalised but not stored yet."""

    file: FileRef
    data: bytes


@dataclass(frozen=True, slots=True)
class StatusReport:
    """What the server is doing. `counts` holds waiting and running tasks."""

    counts: dict[TaskState, int]
    workers: tuple[WorkerInfo, ...]
    mean_task_s: float | None
    uptime_s: float


class Service:
    """The one way in for every dialect."""

    def __init__(
        self,
        *,
        db: Database,
        blobs: BlobStore,
        catalogs: LiveCatalog,
        dispatcher: Dispatcher,
        pool: WorkerPool,
        hub: Hub,
        metrics: Metrics,
        decoder: ImageDecoder,
        queue: Queue,
        clock: Clock,
    ) -> None:
        self._db = db
        self._blobs = blobs
        self._catalogs = catalogs
        self._dispatcher = dispatcher
        self._pool = pool
        self._hub = hub
        self._metrics = metrics
        self._decoder = decoder
        self._queue = queue
        self._clock = clock
        self._started_at = clock()
        self._closing = False

    async def submit(
        self,
        caller: Caller,
        request: GenerationRequest,
        *,
        dialect: str,
        priority: int = 0,
        pictures: Sequence[InputPicture] = (),
        idempotency: str | None = None,
    ) -> Submitted:
        """Accept a task durably.

        `pictures` are the files that `request.images` names; nothing is written before the
        request has passed every check. `idempotency` is the Idempotency-Key header's value.
        Raises what `Catalog.check` raises, `PriorityForbidden`, `NotReady`, `ShuttingDown`,
        `QueueFull`, `OwnerQueueFull`, `IdempotencyMismatch` and `StoreUnavailable`.
        """
        if self._closing:
            raise ShuttingDown(retry_after_s=30)
        self._check_priority(caller, priority)
        await self._catalogs.look_for_loras(request)
        catalog = self._catalogs.now
        catalog.check(request)
        self._check_ready()
        claim = _claim(caller, request, dialect, priority, idempotency) if idempotency else None
        if request.seed is None:
            request = request.model_copy(update={"seed": random.randint(0, MAX_SEED)})
        complete, spec = catalog.complete(request)
        now = self._clock()
        created_at = datetime.fromtimestamp(now, UTC)
        new = tasks.NewTask(
            id=new_task_id(created_at),
            owner=caller.owner,
            key_id=caller.id,
            dialect=dialect,
            asked=request,
            priority=priority,
            lane=LOCAL,
            warm_key=policy.warm_key(spec.id, request.lora_key),
            cost_s=policy.cost_s(complete, self._queue.cost_s_per_megapixel_step),
        )
        for picture in pictures:
            await asyncio.to_thread(self._blobs.put, picture.data)
        move = partial(tasks.insert, task=new, now=now, queue=self._queue, claim=claim)
        inserted = await asyncio.wrap_future(self._db.write(move))
        if inserted.replayed:
            return Submitted(await self._stored(inserted.task_id), replayed=True)
        self._dispatcher.wake()
        return Submitted(_accepted(new, inserted.rank, created_at), replayed=False)

    def refuse_new(self) -> None:
        """The server is about to stop: accept no more tasks."""
        self._closing = True

    def _check_priority(self, caller: Caller, priority: int) -> None:
        lowest = LOWEST_PRIORITY if caller.is_admin else caller.priority_floor
        if priority < lowest:
            raise PriorityForbidden(priority=priority, lowest=lowest)

    def _check_ready(self) -> None:
        """Refuse only when no worker can ever serve; one that starts or restarts will."""
        workers = self._pool.workers()
        if all(worker.state is WorkerState.BROKEN for worker in workers):
            reason = workers[0].reason if workers else "there are no workers"
            raise NotReady(reason=reason, retry_after_s=30)

    async def read_picture(self, data: bytes, field: str) -> InputPicture:
        """Decode an untrusted picture in the helper process, and normalise it.

        `field` is the request's field, for messages. Raises `BadImage`.
        """
        image = await self._decoder.decode(data, field)
        file = FileRef(
            sha256=hashlib.sha256(image.data).hexdigest(),
            media_type="image/png",
            width=image.width,
            height=image.height,
            size_bytes=len(image.data),
        )
        return InputPicture(file, image.data)

    async def wait(self, task_id: str) -> Task:
        """The task once it has ended, well or badly.

        Raises `TaskNotFound`, and `ShuttingDown` when the server stops first: the task stays
        queued and is worked on after the restart.
        """
        with self._hub.subscribe(task_id) as news:
            task = await self._stored(task_id)
            if not task.state.ended:
                await news.until_final()
                task = await self._stored(task_id)
        return task

    async def get(self, caller: Caller, task_id: str) -> Task:
        """A task of the caller's, or any for an admin. Raises `TaskNotFound`."""
        task = await self._stored(task_id)
        if task.owner != caller.owner and not caller.is_admin:
            raise TaskNotFound(task_id=task_id)
        return task

    async def list_tasks(
        self,
        caller: Caller,
        *,
        state: TaskState | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[Task]:
        """The caller's tasks (all for an admin), newest first; `before` is a task id."""
        read = partial(
            tasks.list_tasks,
            owner=None if caller.is_admin else caller.owner,
            state=state,
            limit=limit,
            before=before,
        )
        return await asyncio.wrap_future(self._db.read(read))

    async def cancel(self, caller: Caller, task_id: str) -> Task:
        """Stop a task: at once while it waits, at its next step while it is worked on.

        Raises `TaskNotFound` and `TaskAlreadyEnded`.
        """
        before = await self.get(caller, task_id)
        if before.state.ended:
            raise TaskAlreadyEnded(task_id=task_id, status=before.state)
        return await self._cancel(task_id)

    async def abandon(self, task_id: str) -> None:
        """The client that waited for the task has hung up: nobody wants it any more."""
        await self._cancel(task_id)

    async def _cancel(self, task_id: str) -> Task:
        move = partial(tasks.cancel, task_id=task_id, now=self._clock())
        task = await asyncio.wrap_future(self._db.write(move))
        if task is None:
            raise TaskNotFound(task_id=task_id)
        if task.state is TaskState.CANCELLED:
            self._metrics.observe_ended(task.asked.model, TaskState.CANCELLED)
            self._hub.publish(task_id, task.attempt, Cancelled())
        if task.state in (TaskState.CANCELLED, TaskState.PROCESSING):
            await self._dispatcher.cancel(task_id)
        return task

    async def position(self, task_id: str) -> Queued | None:
        """Where a waiting task stands; None when it does not wait."""
        place = await asyncio.wrap_future(self._db.read(partial(tasks.position, task_id=task_id)))
        if place is None:
            return None
        able = sum(worker.state is not WorkerState.BROKEN for worker in self._pool.workers())
        return Queued(position=place, eta_s=policy.eta_s(place, self._dispatcher.mean_task_s, able))

    def progress(self, task_id: str) -> TaskEvent | None:
        """The newest event of a task that is being worked on."""
        stamped = self._hub.last(task_id)
        return stamped.event if stamped else None

    async def watch(self, task_id: str) -> AsyncIterator[tuple[str, TaskEvent]]:
        """The task's current state, then what follows, as (event id, event); ends with the end."""
        with self._hub.subscribe(task_id) as news:
            last = self._hub.last(task_id)
            task = await self._stored(task_id)
            if last is None or task.state.ended:
                current = await self._current(task)
                yield f"{task.attempt}.0", current
            else:
                current = last.event
                yield last.id, current
            async for event_id, event in self._follow(task_id, news, current):
                yield event_id, event

    async def _follow(
        self, task_id: str, news: Subscription, current: TaskEvent
    ) -> AsyncIterator[tuple[str, TaskEvent]]:
        while not is_final(current):
            try:
                stamped = await asyncio.wait_for(news.next(), POSITION_EVERY_S)
            except TimeoutError:
                moved = await self.position(task_id)
                if moved is None or moved == current:
                    continue
                current = moved
                yield "0.0", current
            else:
                current = stamped.event
                yield stamped.id, current

    async def _current(self, task: Task) -> TaskEvent:
        match task.state:
            case TaskState.COMPLETED:
                return Finished()
            case TaskState.FAILED:
                return Failed(error=task.error or ErrorInfo(code="internal_error"))
            case TaskState.CANCELLED:
                return Cancelled()
            case TaskState.PENDING | TaskState.PROCESSING:
                return await self.position(task.id) or Queued(position=0)

    async def status(self) -> StatusReport:
        """What the server is doing now."""
        return StatusReport(
            counts=await asyncio.wrap_future(self._db.read(tasks.counts)),
            workers=self._pool.workers(),
            mean_task_s=self._dispatcher.mean_task_s,
            uptime_s=self._clock() - self._started_at,
        )

    async def _stored(self, task_id: str) -> Task:
        task = await asyncio.wrap_future(self._db.read(partial(tasks.get, task_id=task_id)))
        if task is None:
            raise TaskNotFound(task_id=task_id)
        return task


def _claim(
    caller: Caller, request: GenerationRequest, dialect: str, priority: int, value: str
) -> tasks.IdempotencyClaim:
    """The fingerprint is of the request as asked: a drawn seed is not part of it."""
    content = f"{dialect}|{priority}|{request.model_dump_json()}"
    return tasks.IdempotencyClaim(
        key_digest=caller.digest,
        value=value,
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
    )


def _accepted(new: tasks.NewTask, rank: float, created_at: datetime) -> Task:
    return Task(
        id=new.id,
        owner=new.owner,
        key_id=new.key_id,
        dialect=new.dialect,
        asked=new.asked,
        priority=new.priority,
        rank=rank,
        lane=new.lane,
        state=TaskState.PENDING,
        created_at=created_at,
    )
