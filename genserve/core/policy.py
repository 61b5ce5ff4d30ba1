"""Decisions as pure functions: who is next, on which worker, and what follows a failure.

Order comes from `rank` (see store/turns.py): lower first. Warmth may reorder, within bounds that
are published: only among tasks of the head's priority, only within the window that is given, and
a task that was passed `max_passes` times is passed no more. So a task that became the head waits
for at most `max_passes` tasks of its own priority because of warmth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from genserve.domain.pool import TaskFailed, WorkerInfo
from genserve.domain.request import GenerationRequest
from genserve.domain.task import ErrorInfo
from genserve.errors import Poisoned, StoreUnavailable
from genserve.store.tasks import Candidate

DISK_PAUSE_S = 5.0
"""How long a task rests whose picture the disk did not take."""
_NO_NEEDS: Mapping[str, int] = MappingProxyType({})
FRESH_TRIES = 1
"""How often a task whose picture was unusable is run again on a fresh worker process."""


class Warmth(IntEnum):
    """How ready a worker is for a task."""

    COLD = 0
    MODEL_LOADED = 1
    LORAS_APPLIED = 2


@dataclass(frozen=True, slots=True)
class Choice:
    """The next task, the worker for it, and the tasks that were passed over."""

    task_id: str
    worker_id: str
    passed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Requeue:
    """Back into the queue after `after_s` seconds; `crashed` counts towards poison."""

    crashed: bool
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the task with this error."""

    error: ErrorInfo


def warm_key(model_id: str, lora_key: str) -> str:
    """What a worker must hold to be warm for a task, as stored with the task."""
    return f"{model_id}|{lora_key}"


def warmth(key: str, worker: WorkerInfo) -> Warmth:
    """How ready `worker` is for a task with this warm key."""
    model_id, _, lora_key = key.partition("|")
    if model_id not in worker.loaded:
        return Warmth.COLD
    worn = worker.lora_keys.get(model_id, "")
    return Warmth.LORAS_APPLIED if lora_key == worn else Warmth.MODEL_LOADED


def choose(
    candidates: Sequence[Candidate],
    idle: Sequence[WorkerInfo],
    *,
    max_passes: int,
    needs: Mapping[str, int] = _NO_NEEDS,
) -> Choice | None:
    """The next task and its worker, or None when no idle worker can take one.

    `candidates` are the first of the queue in rank order. The warmest pair wins; among equally
    warm ones the task that is further ahead. A cold task goes to the worker that holds least.
    `needs`: tasks that only a worker with more memory than that, in bytes, may take; one that none
    of the idle can take is as if it were not there.
    """
    able = {c.id: _able(idle, needs.get(c.id)) for c in candidates}
    reach = _within_reach([c for c in candidates if able[c.id]], max_passes)
    pairs = [
        (warmth(candidate.warm_key, idle[number]), -position, -len(idle[number].loaded), -number)
        for position, candidate in enumerate(reach)
        for number in able[candidate.id]
    ]
    if not pairs:
        return None
    _, behind, _, last = max(pairs)
    position, number = -behind, -last
    return Choice(
        task_id=reach[position].id,
        worker_id=idle[number].id,
        passed=tuple(candidate.id for candidate in reach[:position]),
    )


def _able(idle: Sequence[WorkerInfo], more_than_bytes: int | None) -> list[int]:
    """The numbers of the workers that have more memory than that."""
    if more_than_bytes is None:
        return list(range(len(idle)))
    return [n for n, worker in enumerate(idle) if (worker.memory_total or 0) > more_than_bytes]


def _within_reach(candidates: Sequence[Candidate], max_passes: int) -> list[Candidate]:
    """The candidates that may be taken now: none beyond one that must not be passed again."""
    reach: list[Candidate] = []
    for candidate in candidates:
        if candidate.priority != candidates[0].priority:
            break
        reach.append(candidate)
        if candidate.passed >= max_passes:
            break
    return reach


def after_failure(
    failure: TaskFailed, *, crashes: int, poison_after: int, has_larger: bool = False
) -> Requeue | GiveUp:
    """What to do with a task whose attempt failed; `crashes` counts earlier ones.

    `has_larger`: it ran out of memory, and another worker has more, which is to take it then.

    A crash is tried again until the task counts as poison. A failure that a fresh process may
    cure (an unusable picture) is tried again once. A disk that cannot take the picture is not the
    task's fault: it is tried again until it can. Everything else is final.
    """
    if failure.error.code == StoreUnavailable.code:
        return Requeue(crashed=False, after_s=DISK_PAUSE_S)
    if has_larger:
        return Requeue(crashed=False)
    if failure.crashed:
        if crashes + 1 >= poison_after:
            return GiveUp(ErrorInfo.of(Poisoned(crashes=crashes + 1)))
        return Requeue(crashed=True)
    if failure.retry and crashes < FRESH_TRIES:
        return Requeue(crashed=True)
    return GiveUp(failure.error)


def cost_s(request: GenerationRequest, s_per_megapixel_step: float) -> float:
    """The work of a complete request in seconds, for fair shares. Only ratios matter."""
    width, height, steps = request.width or 0, request.height or 0, request.steps or 0
    return request.count * width * height / 1e6 * steps * s_per_megapixel_step


def eta_s(position: int, mean_task_s: float | None, workers: int) -> float | None:
    """Seconds until the task at `position` (from 1) is done; None without a basis."""
    if mean_task_s is None or workers < 1:
        return None
    return position * mean_task_s / workers
