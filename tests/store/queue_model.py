"""The queue as it should behave, in plain Python, for the stateful test to compare with."""

from collections import Counter
from dataclasses import dataclass, field

from genserve.domain.task import TaskState
from genserve.store.turns import NO_TURN_YET

PENDING, PROCESSING = TaskState.PENDING, TaskState.PROCESSING


class Full(Exception):
    """A limit of the queue is reached."""


@dataclass
class ModelTask:
    """One task."""

    id: str
    owner: str
    lane: str
    priority: int
    turn: float
    rank: float
    created_at: float
    waiting_since: float
    inputs: list[str]
    images: list[str] = field(default_factory=list)
    state: TaskState = PENDING
    token: str | None = None
    attempt: int = 0
    crashes: int = 0
    cancel_requested: bool = False
    started_at: float | None = None
    finished_at: float | None = None


class QueueModel:
    """All tasks, and the queue's clocks."""

    def __init__(self, *, max_tasks: int, max_per_owner: int, ageing_s: float) -> None:
        self.max_tasks = max_tasks
        self.max_per_owner = max_per_owner
        self.ageing_s = ageing_s
        self.tasks: dict[str, ModelTask] = {}
        self.queue_time: dict[str, float] = {}
        self.turns: dict[tuple[str, str], float] = {}
        self.sizes: dict[str, int] = {}
        self.finished = Counter[str]()

    def waiting(self, lane: str) -> list[ModelTask]:
        """Who waits in a lane, next one first."""
        those = (t for t in self.tasks.values() if t.state is PENDING and t.lane == lane)
        return sorted(those, key=lambda t: (t.rank, t.id))

    def refs(self) -> Counter[str]:
        """How often each stored picture is named."""
        return Counter(name for t in self.tasks.values() for name in [*t.inputs, *t.images])

    def insert(
        self,
        id: str,
        *,
        owner: str,
        lane: str,
        priority: int,
        cost: float,
        inputs: list[str],
        now: float,
    ) -> ModelTask:
        """Accept a task. Raises `Full`."""
        waiting = self.waiting(lane)
        mine = [t for t in waiting if t.owner == owner]
        if len(waiting) >= self.max_tasks or len(mine) >= self.max_per_owner:
            raise Full
        turn = max(
            self.queue_time.setdefault(lane, 0.0),
            self.turns.get((lane, owner), NO_TURN_YET) + cost,
        )
        self.turns[lane, owner] = turn
        rank = turn + priority * self.ageing_s
        task = ModelTask(id, owner, lane, priority, turn, rank, now, now, inputs)
        self.tasks[id] = task
        return task

    def claim(self, task: ModelTask, token: str) -> bool:
        """pending → processing."""
        if task.state is not PENDING:
            return False
        task.state, task.token = PROCESSING, token
        task.attempt += 1
        self.queue_time[task.lane] = max(self.queue_time[task.lane], task.turn)
        return True

    def holds(self, task: ModelTask, token: str) -> bool:
        """Whether the token moves the task."""
        return task.state is PROCESSING and task.token == token

    def end(self, task: ModelTask, token: str, state: TaskState, now: float) -> bool:
        """processing → an end. True too when the same was done before; then nothing changes."""
        if not self.holds(task, token):
            return task.token == token and task.state is state
        task.state, task.finished_at = state, now
        return True

    def requeue(self, task: ModelTask, token: str, now: float, *, crashed: bool) -> int | None:
        """processing → pending, or cancelled when that was asked for."""
        if not self.holds(task, token):
            return None
        task.crashes += crashed
        if task.cancel_requested:
            task.state, task.finished_at = TaskState.CANCELLED, now
            return None
        self._put_back(task, now)
        return task.crashes

    def cancel(self, task: ModelTask, now: float) -> TaskState:
        """End a waiting task, ask for the end of a running one."""
        if task.state is PENDING:
            task.state, task.finished_at, task.cancel_requested = TaskState.CANCELLED, now, True
        elif task.state is PROCESSING:
            task.cancel_requested = True
        return task.state

    def expire(self, before: float, now: float) -> set[str]:
        """pending → failed for those that waited too long."""
        late = [t for t in self.tasks.values() if t.state is PENDING and t.waiting_since < before]
        for task in late:
            task.state, task.finished_at = TaskState.FAILED, now
        return {task.id for task in late}

    def recover(self, now: float) -> set[str]:
        """Nothing is worked on any more."""
        running = [t for t in self.tasks.values() if t.state is PROCESSING]
        for task in running:
            if task.cancel_requested:
                task.state, task.finished_at = TaskState.CANCELLED, now
            else:
                self._put_back(task, now)
        return {task.id for task in running if task.state is PENDING}

    def age(self, now: float) -> None:
        """Less urgent tasks move up."""
        for task in self.tasks.values():
            if task.state is PENDING and task.priority > 0:
                left = max(0.0, task.priority * self.ageing_s - (now - task.created_at))
                task.rank = min(task.rank, task.turn + left)

    def purge(self, now: float, max_age_s: float, max_bytes: int) -> set[str]:
        """Delete ended tasks; the pictures that nothing names any more."""
        before = set(self.refs())
        ended = sorted(
            (t for t in self.tasks.values() if t.finished_at is not None),
            key=lambda t: (t.finished_at or 0.0, t.id),
        )
        excess = sum(self.sizes[name] for name in before) - max_bytes
        for task in ended:
            too_old = (task.finished_at or 0.0) < now - max_age_s
            if not too_old and excess <= 0:
                break
            del self.tasks[task.id]
            excess -= sum(self.sizes[name] for name in [*task.inputs, *task.images])
        return before - set(self.refs())

    def _put_back(self, task: ModelTask, now: float) -> None:
        task.state, task.token, task.started_at = PENDING, None, None
        task.waiting_since = now
