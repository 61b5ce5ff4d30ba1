"""The task in a worker's hands: what was asked of it, and how its end is told."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from genserve.domain.pool import (
    Assignment,
    TaskDone,
    TaskFailed,
    TaskLoading,
    TaskProgress,
    TaskStarted,
    TaskStopped,
)
from genserve.domain.task import ErrorInfo, Result
from genserve.errors import TaskTimedOut, WorkerFailed


@dataclass(slots=True)
class HeldTask:
    """One assignment from `submit` to its one final event.

    `acknowledged`: the process has said that it took it. `cancelled`, `timed_out` and `returned`
    are wishes that decide how the end is told when the process stops or dies.
    """

    assignment: Assignment
    worker: str
    acknowledged: bool = False
    stepping: bool = False
    cancelled: bool = False
    timed_out: bool = False
    returned: bool = False
    last_step_at: float | None = None
    _limit: asyncio.TimerHandle | None = field(default=None, repr=False)

    @property
    def to_be_stopped(self) -> bool:
        """Whether the process was told to stop it."""
        return self.cancelled or self.timed_out

    def is_about(self, task_id: str, attempt: int) -> bool:
        """Whether a message or command is about this attempt at this task."""
        return (self.assignment.task_id, self.assignment.attempt) == (task_id, attempt)

    def limit_time(self, on_limit: Callable[[], None]) -> None:
        """Work began: call when the task's time is over."""
        loop = asyncio.get_running_loop()
        self._limit = loop.call_later(self.assignment.time_limit_s, on_limit)

    def forget_limit(self) -> None:
        """The task has ended."""
        if self._limit is not None:
            self._limit.cancel()

    def loading(self, model: str) -> TaskLoading:
        return TaskLoading(**self._about(), model=model)

    def started(self) -> TaskStarted:
        return TaskStarted(**self._about())

    def progress(self, step: int, total: int, preview: str | None) -> TaskProgress:
        return TaskProgress(**self._about(), step=step, total=total, preview=preview)

    def done(self, result: Result) -> TaskDone:
        return TaskDone(**self._about(), token=self.assignment.token, result=result)

    def failed(self, error: ErrorInfo, *, crashed: bool, retry: bool) -> TaskFailed | TaskStopped:
        """The process reports an error; of a task that was cancelled nobody wants to know."""
        if self.cancelled:
            return self.stopped()
        token = self.assignment.token
        return TaskFailed(**self._about(), token=token, error=error, crashed=crashed, retry=retry)

    def stopped(self) -> TaskFailed | TaskStopped:
        """The process did as it was told."""
        if self.timed_out and not self.cancelled:
            error = TaskTimedOut(limit_s=self.assignment.time_limit_s)
            return TaskFailed(
                **self._about(), token=self.assignment.token, error=ErrorInfo.of(error)
            )
        return TaskStopped(
            **self._about(),
            token=self.assignment.token,
            returned=self.returned and not self.cancelled,
        )

    def lost(self, reason: str) -> TaskFailed | TaskStopped:
        """The process died under it.

        One that never said it took the task cannot have died of it: the task goes back unblamed.
        """
        if not self.acknowledged:
            self.returned = True
        if self.to_be_stopped or self.returned:
            return self.stopped()
        error = ErrorInfo.of(WorkerFailed(reason=reason))
        return self.failed(error, crashed=True, retry=True)

    def _about(self) -> dict[str, str | int]:
        return {
            "task_id": self.assignment.task_id,
            "attempt": self.assignment.attempt,
            "worker": self.worker,
        }
