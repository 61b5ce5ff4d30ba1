"""Tells watchers in this process what happens to tasks.

Nothing here is stored: the database has the state, the hub has the news. Progress is never a row.
An event's id is `attempt.seq`. A watcher that comes back is told the current state first, then
what follows, so nothing has to be replayed.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from genserve.domain.events import Progress, TaskEvent, is_final
from genserve.errors import ShuttingDown

RESTART_S = 30
"""When a client that was waiting at a shutdown should ask again, in seconds."""


@dataclass(frozen=True, slots=True)
class Stamped:
    """An event with its id."""

    attempt: int
    seq: int
    event: TaskEvent

    @property
    def id(self) -> str:
        """The SSE event id."""
        return f"{self.attempt}.{self.seq}"


class Subscription:
    """One watcher's queue: news in order, where newer progress replaces older that is unread."""

    def __init__(self) -> None:
        self._news: deque[Stamped] = deque()
        self._arrived = asyncio.Event()
        self._closed = False

    def push(self, stamped: Stamped) -> None:
        """Add news. Never blocks and never grows with progress."""
        unread = self._news[-1].event if self._news else None
        if isinstance(stamped.event, Progress) and isinstance(unread, Progress):
            self._news.pop()
            stamped = replace(stamped, event=_with_preview(stamped.event, unread))
        self._news.append(stamped)
        self._arrived.set()

    def close(self) -> None:
        """No more news will come: whoever waits is told."""
        self._closed = True
        self._arrived.set()

    async def next(self) -> Stamped:
        """The next news, waited for. Raises `ShuttingDown` when the server stops first."""
        while not self._news:
            if self._closed:
                raise ShuttingDown(retry_after_s=RESTART_S)
            self._arrived.clear()
            await self._arrived.wait()
        return self._news.popleft()

    async def until_final(self) -> TaskEvent:
        """Wait for the event after which nothing follows."""
        while not is_final((stamped := await self.next()).event):
            pass
        return stamped.event


def _with_preview(newer: Progress, unread: Progress) -> Progress:
    """The newer progress with the newest preview there is: most progress has none."""
    if newer.preview is not None or unread.preview is None:
        return newer
    return newer.model_copy(update={"preview": unread.preview})


@dataclass(slots=True)
class _Topic:
    seq: int = 0
    last: Stamped | None = None
    subscribers: list[Subscription] = field(default_factory=list)


class Hub:
    """Publish and subscribe by task id, on one event loop."""

    def __init__(self) -> None:
        self._topics: dict[str, _Topic] = {}
        self._closed = False

    def close(self) -> None:
        """The server stops: everyone who still waits is told so."""
        self._closed = True
        for topic in self._topics.values():
            for subscriber in topic.subscribers:
                subscriber.close()

    def publish(self, task_id: str, attempt: int, event: TaskEvent) -> None:
        """Tell everyone who watches the task. After a final event the topic is forgotten."""
        topic = self._topics.setdefault(task_id, _Topic())
        topic.seq += 1
        topic.last = Stamped(attempt, topic.seq, event)
        for subscriber in topic.subscribers:
            subscriber.push(topic.last)
        if is_final(event):
            del self._topics[task_id]

    def last(self, task_id: str) -> Stamped | None:
        """The newest event of a task that has not ended, if any was published."""
        topic = self._topics.get(task_id)
        return topic.last if topic else None

    def forget(self, task_id: str) -> None:
        """Drop the last event of a task that went back into the queue."""
        topic = self._topics.get(task_id)
        if topic:
            topic.last = None
            if not topic.subscribers:
                del self._topics[task_id]

    @contextmanager
    def subscribe(self, task_id: str) -> Iterator[Subscription]:
        """Watch a task from now on. Read the task's state after subscribing, not before."""
        subscription = Subscription()
        if self._closed:
            subscription.close()
        topic = self._topics.setdefault(task_id, _Topic())
        topic.subscribers.append(subscription)
        try:
            yield subscription
        finally:
            topic.subscribers.remove(subscription)
            current = self._topics.get(task_id) is topic
            if current and not topic.subscribers and topic.last is None:
                del self._topics[task_id]
