"""Takes the next task out of the queue: reads its window, decides (policy.choose), and moves it.

All three in one transaction.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

from pydantic import ValidationError
from sqlalchemy import Connection

from genserve.config import Queue
from genserve.core import policy
from genserve.core.live_catalog import LiveCatalog
from genserve.domain.lora import LoraSource
from genserve.domain.model import ModelSpec
from genserve.domain.pool import WorkerInfo
from genserve.domain.request import GenerationRequest
from genserve.domain.task import ErrorInfo, Task
from genserve.errors import GenServeError
from genserve.store import tasks
from genserve.store.database import Clock, Database

LOCAL = "local"
"""The lane of tasks that this machine's workers serve."""
UNREADABLE = ErrorInfo.of(GenServeError())


@dataclass(frozen=True, slots=True)
class Means:
    """What a task is worked on with."""

    spec: ModelSpec
    loras: dict[str, LoraSource]
    preprocessor: ModelSpec | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim yielded: a task to run, or one that cannot be served any more."""

    task: Task
    token: str
    worker_id: str
    means: Means | None
    error: GenServeError | None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A task whose stored request this version does not understand; it was ended."""

    task_id: str


class Claims:
    """Claims of one server."""

    def __init__(
        self, *, db: Database, catalogs: LiveCatalog, queue: Queue, epoch: int, clock: Clock
    ) -> None:
        self._db = db
        self._catalogs = catalogs
        self._queue = queue
        self._epoch = epoch
        self._clock = clock

    async def next(
        self, idle: list[WorkerInfo], *, needs: Mapping[str, int]
    ) -> Claimed | Unreadable | None:
        """The next task for one of the idle workers; `needs` as in `policy.choose`.

        Raises `StoreUnavailable`.
        """
        # Not durable: a claim that a power cut takes back is only a requeue.
        move = partial(self._move, idle=idle, needs=needs, token=str(uuid4()))
        return await asyncio.wrap_future(self._db.write(move, durable=False))

    def _move(
        self, conn: Connection, *, idle: list[WorkerInfo], needs: Mapping[str, int], token: str
    ) -> Claimed | Unreadable | None:
        """Runs on the database's writer thread; touches nothing but `conn` and frozen values."""
        # Tasks that only larger workers may take must not fill the window of the others.
        window = tasks.candidates(conn, LOCAL, limit=self._queue.window + len(needs))
        choice = policy.choose(window, idle, max_passes=self._queue.max_passes, needs=needs)
        if choice is None:
            return None
        try:
            waiting = tasks.get(conn, choice.task_id)
        except ValidationError:  # stored by a version that knew other fields
            tasks.refuse(conn, choice.task_id, error=UNREADABLE, now=self._clock())
            return Unreadable(choice.task_id)
        if waiting is None:
            return None
        resolved, means, error = self._means(waiting.asked)
        task = tasks.claim(
            conn,
            choice.task_id,
            token=token,
            backend=LOCAL,
            worker=choice.worker_id,
            epoch=self._epoch,
            resolved=resolved,
            now=self._clock(),
            passed=choice.passed,
        )
        return Claimed(task, token, choice.worker_id, means, error) if task else None

    def _means(
        self, asked: GenerationRequest
    ) -> tuple[GenerationRequest, Means | None, GenServeError | None]:
        """The request with all that it left out, and what it needs, or why that is not there."""
        catalog = self._catalogs.now  # one for all: it may be another in a moment
        try:
            catalog.check(asked)  # what it needs may have gone while it waited
            loras = catalog.lora_sources(asked)
            resolved, spec = catalog.complete(asked)
            return resolved, Means(spec, loras, catalog.preprocessor(resolved)), None
        except GenServeError as refused:
            return asked, None, refused
