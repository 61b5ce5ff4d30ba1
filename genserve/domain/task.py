"""A task: one accepted request on its way to a picture. Only `store/tasks.py` moves it."""

import os
from datetime import datetime
from enum import StrEnum
from typing import Self

from pydantic import JsonValue

from genserve.domain.request import GenerationRequest, Value
from genserve.errors import GenServeError, from_stored


class TaskState(StrEnum):
    """Where a task is. The values are what every API shows."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether the task never moves again."""
        return not TRANSITIONS[self]


TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    TaskState.PENDING: frozenset({TaskState.PROCESSING, TaskState.FAILED, TaskState.CANCELLED}),
    TaskState.PROCESSING: frozenset(
        {TaskState.PENDING, TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED}
    ),
    TaskState.COMPLETED: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.CANCELLED: frozenset(),
}
"""pending → failed is the waiting limit; processing → pending is a requeue."""


class Outcome(StrEnum):
    """How an attempt ended; `LOST` and `RETURNED` put the task back into the queue."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    """The worker died under it: counts towards poison."""
    RETURNED = "returned"
    """Given back at a drain or before work began: costs nothing."""


class ErrorInfo(Value):
    """An error as it is stored: words are made when it is shown."""

    code: str
    params: dict[str, JsonValue] = {}

    @classmethod
    def of(cls, error: GenServeError) -> Self:
        """How `error` is stored."""
        return cls(code=error.code, params=error.params)

    def told(self) -> GenServeError:
        """The error again."""
        return from_stored(self.code, self.params)


class ResultImage(Value):
    """One finished picture, named by its content."""

    sha256: str
    media_type: str
    size_bytes: int
    width: int
    height: int
    seed: int

    @property
    def file_name(self) -> str:
        """The name under which `/images/` serves it."""
        extension = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
        return f"{self.sha256}.{extension[self.media_type]}"


class Degraded(Value):
    """A rung of the out-of-memory ladder, or another departure from what was asked for."""

    code: str
    detail: str = ""


class Result(Value):
    """What a finished attempt produced. Durations in seconds."""

    images: tuple[ResultImage, ...]
    served_by: str
    """The id of the model that drew: differs from the request's when a stand-in did."""
    native_width: int
    native_height: int
    """The size that was drawn; smaller than the picture when it was enlarged."""
    degraded: tuple[Degraded, ...] = ()
    load_s: float = 0.0
    generation_s: float = 0.0
    stages_s: dict[str, float] = {}
    peak_bytes: int | None = None
    """The most memory taken at once: see `pipelines.peak_memory`."""


class Task(Value):
    """A task as stored; times are UTC.

    `asked` keeps its `None`s; `resolved` is the last attempt's.
    """

    id: str
    owner: str
    key_id: str
    dialect: str
    asked: GenerationRequest
    priority: int
    rank: float
    lane: str
    state: TaskState
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempt: int = 0
    crashes: int = 0
    resolved: GenerationRequest | None = None
    worker: str | None = None
    result: Result | None = None
    error: ErrorInfo | None = None


def new_task_id(now: datetime) -> str:
    """A UUIDv7 (RFC 9562): 48 bits of Unix milliseconds, then random bits; sorts by time."""
    milliseconds = int(now.timestamp() * 1000)
    value = int.from_bytes(os.urandom(10))
    random_a, random_b = value >> 68, value & ((1 << 62) - 1)
    number = milliseconds << 80 | 0x7 << 76 | (random_a & 0xFFF) << 64 | 0b10 << 62 | random_b
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
