"""The rung "another GPU" of the memory ladder: tasks that have outgrown the worker they were on.

Kept in memory alone: after a restart such a task may be tried on a small GPU once more.
"""

from genserve.domain.pool import WorkerInfo, WorkerPool, WorkerState
from genserve.domain.task import Degraded, ErrorInfo
from genserve.errors import OutOfMemory

_GONE = frozenset({WorkerState.BROKEN, WorkerState.STOPPED})
OTHER_GPU = Degraded(
    code="other_gpu", detail="A GPU with less memory ran out of it, so a larger one drew it."
)


class Outgrown:
    """Which tasks ran out of memory, and how large the largest worker was that they did on."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._bytes: dict[str, int] = {}

    def has_larger(self, task_id: str, worker_id: str, error: ErrorInfo) -> bool:
        """Whether a task that failed there fails for want of memory, and others have more."""
        if error.code != OutOfMemory.code:
            return False
        own = next(worker for worker in self._pool.workers() if worker.id == worker_id)
        if not self._larger_than(own.memory_total or 0):
            return False
        self._bytes[task_id] = max(own.memory_total or 0, self._bytes.get(task_id, 0))
        return True

    def needs(self) -> dict[str, int]:
        """Tasks that only workers with more memory than that, in bytes, may take.

        A task whose last such worker is gone may be taken, and fail, anywhere.
        """
        return {task: size for task, size in self._bytes.items() if self._larger_than(size)}

    def degraded(self, task_id: str) -> tuple[Degraded, ...]:
        """What the answer of a task that has moved says of it; nothing once nobody is larger."""
        return (OTHER_GPU,) if task_id in self.needs() else ()

    def forget(self, task_id: str) -> None:
        """The task has ended."""
        self._bytes.pop(task_id, None)

    def _larger_than(self, size_bytes: int) -> list[WorkerInfo]:
        return [
            worker
            for worker in self._pool.workers()
            if worker.state not in _GONE and (worker.memory_total or 0) > size_bytes
        ]
