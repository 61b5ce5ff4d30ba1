"""A task that was accepted and made no picture."""

from typing import ClassVar

from genserve.errors.base import GenServeError


class TaskEndedBadly(GenServeError):
    code = "task_failed"


class TaskTimedOut(TaskEndedBadly):
    code = "task_timeout"
    status = 504
    names: ClassVar[tuple[str, ...]] = ("limit_s",)


class WaitedTooLong(TaskEndedBadly):
    code = "queue_timeout"
    status = 504
    names: ClassVar[tuple[str, ...]] = ("limit_s",)


class OutOfMemory(TaskEndedBadly):
    code = "out_of_memory"
    status = 503
    retryable = True
    names: ClassVar[tuple[str, ...]] = ("model",)


class Poisoned(TaskEndedBadly):
    code = "poisoned"
    names: ClassVar[tuple[str, ...]] = ("crashes",)


class WorkerFailed(TaskEndedBadly):
    """`reason` is a short text of ours, never an exception's own."""

    code = "worker_failed"
    names: ClassVar[tuple[str, ...]] = ("reason",)


class BadPicture(TaskEndedBadly):
    code = "bad_picture"
    names: ClassVar[tuple[str, ...]] = ("reason",)


class TaskCancelled(TaskEndedBadly):
    code = "task_cancelled"
    status = 409


class InputLost(TaskEndedBadly):
    code = "input_lost"
