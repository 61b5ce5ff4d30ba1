"""Watches the task in hand: its alarms, its time limit, and what the process says of it."""

import asyncio
from collections.abc import Callable, Collection
from typing import assert_never

from genserve.config import Pool
from genserve.domain.pool import PoolEvent, WorkerState
from genserve.workers.deadlines import Deadline, StepTimes
from genserve.workers.held import HeldTask
from genserve.workers.messages import (
    Cancel,
    Decoding,
    Done,
    Failed,
    Loading,
    Started,
    Step,
    Stopped,
    TaskMessage,
)


class TaskWatch:
    """For one process: it remembers which models have made a step in it.

    `end` is called once for each task, with its final event and what the worker is then.
    """

    def __init__(
        self,
        settings: Pool,
        step_times: StepTimes,
        deadline: Deadline,
        *,
        tell: Callable[[Cancel], None],
        emit: Callable[[PoolEvent], None],
        end: Callable[[PoolEvent, WorkerState], None],
    ) -> None:
        self._settings = settings
        self._step_times = step_times
        self._deadline = deadline
        self._tell = tell
        self._emit = emit
        self._end = end
        self._stepped: set[str] = set()

    def on_message(self, held: HeldTask, message: TaskMessage) -> None:
        """What the process says of the task in hand."""
        match message:
            case Loading():
                self._deadline.set(self._settings.load_timeout_s, "reading the model")
                self._emit(held.loading(message.model))
            case Started():
                held.limit_time(lambda: self._on_time_limit(held))
                self._await_step(held)
                self._emit(held.started())
            case Step():
                self._learn_step(held)
                self._await_step(held)
                self._emit(held.progress(message.step, message.total, message.preview))
            case Decoding():
                held.stepping, held.last_step_at = False, None
                self._deadline.set(self._settings.decode_timeout_s, "decoding the picture")
            case Done():
                self._end(held.done(message.result), WorkerState.IDLE)
            case Stopped():
                self._end(held.stopped(), WorkerState.IDLE)
            case Failed():
                after = WorkerState.RESTARTING if message.fatal else WorkerState.IDLE
                event = held.failed(message.error, crashed=message.crashed, retry=message.retry)
                self._end(event, after)
            case _:
                assert_never(message)

    def keep(self, loaded: Collection[str]) -> None:
        """Only these are in memory: what is loaded again compiles and warms up again."""
        self._stepped &= set(loaded)

    def ask_to_stop(self, held: HeldTask) -> None:
        """Tell the process to stop the task; within a step it must have done so."""
        assignment = held.assignment
        self._tell(Cancel(task_id=assignment.task_id, attempt=assignment.attempt))
        if held.stepping:
            timeout_s = self._step_times.timeout_s(assignment.model.id)
            self._deadline.at_most(timeout_s, "stopping the task")

    def _on_time_limit(self, held: HeldTask) -> None:
        held.timed_out = True
        self.ask_to_stop(held)

    def _await_step(self, held: HeldTask) -> None:
        """Set the alarm for the next step; a task that was asked to stop gets no new time."""
        model = held.assignment.model.id
        held.stepping = True
        if model in self._stepped:
            timeout_s = self._step_times.timeout_s(model)
        else:
            timeout_s = self._settings.load_timeout_s
        if held.to_be_stopped:
            self._deadline.at_most(timeout_s, "stopping the task")
        else:
            self._deadline.set(timeout_s, "a step")

    def _learn_step(self, held: HeldTask) -> None:
        """Steps are measured from one to the next: before a picture's first lies other work."""
        now = asyncio.get_running_loop().time()
        model = held.assignment.model.id
        self._stepped.add(model)
        if held.last_step_at is not None:
            self._step_times.saw(model, now - held.last_step_at)
        held.last_step_at = now
