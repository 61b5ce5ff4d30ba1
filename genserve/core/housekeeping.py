"""What must happen now and then: the waiting limit, retention, orphaned files, last use of keys."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from genserve.config import Queue, Retention
from genserve.core.hub import Hub
from genserve.core.keyring import KeyRing
from genserve.core.metrics import Metrics
from genserve.domain.events import Failed
from genserve.domain.task import ErrorInfo, TaskState
from genserve.errors import StoreUnavailable, WaitedTooLong
from genserve.store import tasks
from genserve.store.blobs import YOUNG_S, BlobStore
from genserve.store.database import Clock, Database

log = logging.getLogger(__name__)

WAITING_EVERY_S = 1.0
AGEING_EVERY_S = 60.0
RETENTION_EVERY_S = 60.0
ORPHANS_EVERY_S = 600.0
GIB = 2**30
DAY_S = 86_400


class Housekeeping:
    """Runs the chores, each in a loop of its own. Construct, `start`, `stop`."""

    def __init__(
        self,
        *,
        db: Database,
        blobs: BlobStore,
        hub: Hub,
        keys: KeyRing,
        metrics: Metrics,
        queue: Queue,
        retention: Retention,
        clock: Clock,
    ) -> None:
        self._db = db
        self._blobs = blobs
        self._hub = hub
        self._keys = keys
        self._metrics = metrics
        self._queue = queue
        self._retention = retention
        self._clock = clock
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the loops."""
        chores: list[tuple[Callable[[], Awaitable[None]], float]] = [
            (self.end_overdue, WAITING_EVERY_S),
            (self.age_tasks, AGEING_EVERY_S),
            (self.apply_retention, RETENTION_EVERY_S),
            (self._keys.flush_last_used, RETENTION_EVERY_S),
            (self.sweep_orphans, ORPHANS_EVERY_S),
        ]
        self._loops = [
            asyncio.create_task(_every(seconds, chore), name=f"housekeeping.{chore.__name__}")
            for chore, seconds in chores
        ]

    async def stop(self) -> None:
        """End the loops; the last use of keys is written once more."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self._keys.flush_last_used()

    async def end_overdue(self) -> None:
        """Fail the tasks that waited longer than the limit."""
        info = ErrorInfo.of(WaitedTooLong(limit_s=self._queue.waiting_limit_s))
        now = self._clock()
        before = now - self._queue.waiting_limit_s
        move = partial(tasks.expire_waiting, before=before, error=info, now=now)
        for task_id in await asyncio.wrap_future(self._db.write(move)):
            self._hub.publish(task_id, 0, Failed(error=info))
            task = await asyncio.wrap_future(self._db.read(partial(tasks.get, task_id=task_id)))
            if task is not None:
                self._metrics.observe_ended(task.asked.model, TaskState.FAILED)

    async def age_tasks(self) -> None:
        """Move less urgent tasks up by as much as they have waited."""
        move = partial(tasks.age, now=self._clock(), queue=self._queue)
        await asyncio.wrap_future(self._db.write(move, durable=False))

    async def apply_retention(self) -> None:
        """Delete ended tasks that are too old or too many, and pictures that nothing names."""
        move = partial(
            tasks.purge,
            now=self._clock(),
            max_age_s=self._retention.max_age_days * DAY_S,
            max_bytes=int(self._retention.max_gib * GIB),
        )
        for sha256 in await asyncio.wrap_future(self._db.write(move)):
            await asyncio.to_thread(self._blobs.delete, sha256)

    async def sweep_orphans(self) -> None:
        """Delete files that no row names, as an interrupted worker leaves them."""

        def known(names: list[str]) -> set[str]:
            return self._db.read(partial(tasks.known_blobs, names=names)).result()

        swept = await asyncio.to_thread(self._blobs.sweep, known, older_than_s=YOUNG_S)
        if swept:
            log.info("deleted %d files that no task names", swept)


async def _every(seconds: float, chore: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await chore()
        except StoreUnavailable as error:
            log.warning("housekeeping waits: %s", error)
        except Exception:  # one failed chore must not end the loop
            log.exception("housekeeping failed")
