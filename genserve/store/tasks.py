"""The only place that moves a task.

    pending ──claim──► processing ──finish───► completed
    │  │ ▲                │ │ │
    │  │ └requeue, recover┘ │ └──fail────────► failed
    │  └──expire_waiting, refuse─────────────► failed
    └──cancel───────────────┴──cancelled─────► cancelled

Every move is one UPDATE fenced by the state that it leaves and, once a task is claimed, by the
token of its newest attempt: it moves exactly one row, or none because somebody else was first. So
a late result of an older attempt is refused, and a task ends once. What belongs to a move (the
attempt, pictures, usage, the queue's counts) is written in the same transaction.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row, bindparam, case, or_, select, update

from genserve.domain.request import GenerationRequest
from genserve.domain.task import ErrorInfo, Outcome, Result, Task, TaskState
from genserve.store import attempts, blob_rows, turns, usage
from genserve.store.blob_rows import known_blobs
from genserve.store.intake import IdempotencyClaim, Inserted, NewTask, insert
from genserve.store.leases import DISPATCHER
from genserve.store.retention import purge
from genserve.store.schema import leases, tasks
from genserve.store.task_queries import (
    OPEN,
    PENDING,
    Candidate,
    candidates,
    counts,
    get,
    list_tasks,
    position,
)
from genserve.store.turns import age

__all__ = [
    "Candidate",
    "IdempotencyClaim",
    "Inserted",
    "NewTask",
    "age",
    "cancel",
    "cancelled",
    "candidates",
    "claim",
    "counts",
    "expire_waiting",
    "fail",
    "finish",
    "get",
    "insert",
    "known_blobs",
    "list_tasks",
    "position",
    "purge",
    "recover",
    "refuse",
    "requeue",
    "started",
]

_THIS = tasks.c.id == bindparam("b_id")
_WAITS = tasks.c.state == TaskState.PENDING.value
_PROCESSING = tasks.c.state == TaskState.PROCESSING.value
_HELD = (tasks.c.attempt_token == bindparam("b_token")) & _THIS & _PROCESSING
_NOW = bindparam("b_now", type_=sa.Double)
_EPOCH = bindparam("b_epoch", type_=sa.Integer)
_LEADS = or_(
    _EPOCH == 0,
    ~select(leases.c.epoch).where(leases.c.name == DISPATCHER, leases.c.epoch > _EPOCH).exists(),
)
_STOP = tasks.c.cancel_requested
_BACK = {
    "state": case((_STOP, TaskState.CANCELLED.value), else_=TaskState.PENDING.value),
    "attempt_token": case((_STOP, tasks.c.attempt_token)),
    "started_at": case((_STOP, tasks.c.started_at)),
    "waiting_since": case((_STOP, tasks.c.waiting_since), else_=_NOW),
    "finished_at": case((_STOP, _NOW)),
}
"""Not worked on any more: it waits again, or is cancelled if that had been asked for."""

_CLAIM = (
    update(tasks)
    .where(_THIS, PENDING, _LEADS)
    .values(
        state=TaskState.PROCESSING.value,
        attempt=tasks.c.attempt + 1,
        attempt_token=bindparam("b_token"),
    )
    .returning(tasks.c.lane, tasks.c.owner, tasks.c.turn, tasks.c.attempt)
)
_PASS = (
    update(tasks)
    .where(PENDING, tasks.c.id.in_(bindparam("ids", expanding=True)))
    .values(passed=tasks.c.passed + 1)
)
_START = update(tasks).where(_HELD).values(started_at=sa.func.coalesce(tasks.c.started_at, _NOW))
_END = (
    update(tasks)
    .where(_HELD)
    .values(
        state=bindparam("b_state"),
        finished_at=_NOW,
        result=bindparam("b_result"),
        error=bindparam("b_error"),
        crashes=tasks.c.crashes + bindparam("b_crashes", type_=sa.Integer),
    )
    .returning(tasks.c.owner, tasks.c.attempt)
)
_REQUEUE = (
    update(tasks)
    .where(_HELD)
    .values(**_BACK, crashes=tasks.c.crashes + bindparam("b_crashes", type_=sa.Integer))
    .returning(tasks.c.state, tasks.c.lane, tasks.c.owner, tasks.c.attempt, tasks.c.crashes)
)
_CANCEL = (
    update(tasks)
    .where(_THIS, tasks.c.state.in_([TaskState.PENDING.value, TaskState.PROCESSING.value]))
    .values(
        cancel_requested=True,
        finished_at=case((_WAITS, _NOW)),
        state=case((_WAITS, TaskState.CANCELLED.value), else_=tasks.c.state),
    )
    .returning(tasks.c.state, tasks.c.lane, tasks.c.owner)
)
_OVERDUE = (
    select(tasks.c.id)
    .where(PENDING, tasks.c.waiting_since < bindparam("b_before"))
    .order_by(tasks.c.waiting_since)
    .limit(bindparam("b_limit"))
)
_FAIL_WAITING = (
    update(tasks)
    .where(PENDING)
    .values(state=TaskState.FAILED.value, finished_at=_NOW, error=bindparam("b_error"))
    .returning(tasks.c.id, tasks.c.lane, tasks.c.owner)
)
_EXPIRE = _FAIL_WAITING.where(tasks.c.id.in_(_OVERDUE))
_REFUSE = _FAIL_WAITING.where(_THIS)
_RECOVER = (
    update(tasks)
    .where(OPEN, _PROCESSING)
    .values(**_BACK)
    .returning(tasks.c.id, tasks.c.state, tasks.c.lane, tasks.c.owner, tasks.c.attempt)
)
_ENDED_SO = select(tasks.c.id).where(
    _THIS, tasks.c.attempt_token == bindparam("b_token"), tasks.c.state == bindparam("b_state")
)


def claim(
    conn: Connection,
    task_id: str,
    *,
    token: str,
    backend: str,
    worker: str,
    epoch: int,
    resolved: GenerationRequest,
    now: float,
    passed: Sequence[str] = (),
) -> Task | None:
    """pending → processing, as a new attempt that `token` (unique) stands for from now on.

    `passed`: the tasks before it that it was preferred to. None: it does not wait any more, or
    the dispatcher's `epoch` (of leases.lead; 0 for one without rivals) is over.
    """
    where = {"b_id": task_id, "b_token": token, "b_epoch": epoch}
    moved = conn.execute(_CLAIM, where).one_or_none()
    if moved is None:
        return None
    turns.serve(conn, lane=moved.lane, owner=moved.owner, turn=moved.turn)
    attempts.add(
        conn,
        task_id,
        moved.attempt,
        token=token,
        backend=backend,
        worker=worker,
        epoch=epoch,
        resolved=resolved,
        now=now,
    )
    if passed:
        conn.execute(_PASS, {"ids": passed})
    return get(conn, task_id)


def started(conn: Connection, task_id: str, token: str, now: float) -> bool:
    """Work on a claimed task began. False: the attempt is not the task's newest any more."""
    return conn.execute(_START, {"b_id": task_id, "b_token": token, "b_now": now}).rowcount == 1


def finish(conn: Connection, task_id: str, token: str, result: Result, *, now: float) -> bool:
    """processing → completed, with its pictures and the owner's usage.

    False: fenced off, as for `fail` and `cancelled`. True also when this very move was made
    before, so that one whose commit got no answer can be made again.
    """
    where = {"b_id": task_id, "b_token": token, "b_now": now}
    ended = _end(conn, where, TaskState.COMPLETED, Outcome.DONE, result=result)
    if ended is None:
        return _ended_so(conn, task_id, token, TaskState.COMPLETED)
    blob_rows.add_images(conn, task_id, result.images, now=now)
    pixels = result.native_width * result.native_height * len(result.images)
    steps = attempts.resolved(conn, task_id, ended.attempt).steps or 0
    images, pixel_steps = len(result.images), float(pixels * steps)
    usage.record(conn, ended.owner, now=now, images=images, pixel_steps=pixel_steps)
    return True


def fail(
    conn: Connection,
    task_id: str,
    token: str,
    error: ErrorInfo,
    *,
    now: float,
    outcome: Outcome = Outcome.FAILED,
) -> bool:
    """processing → failed. `Outcome.LOST`: the last attempt's worker died, which is counted."""
    where = {"b_id": task_id, "b_token": token, "b_now": now}
    ended = _end(conn, where, TaskState.FAILED, outcome, error=error)
    return ended is not None or _ended_so(conn, task_id, token, TaskState.FAILED)


def cancelled(conn: Connection, task_id: str, token: str, *, now: float) -> bool:
    """processing → cancelled: its worker has stopped."""
    where = {"b_id": task_id, "b_token": token, "b_now": now}
    ended = _end(conn, where, TaskState.CANCELLED, Outcome.CANCELLED)
    return ended is not None or _ended_so(conn, task_id, token, TaskState.CANCELLED)


def requeue(conn: Connection, task_id: str, token: str, *, now: float, crashed: bool) -> int | None:
    """processing → pending, at its old rank, and how often it has crashed by now.

    `crashed`: its worker died, which is counted; else the attempt was given back and costs
    nothing. None: fenced off, or cancelled instead because that had been asked for (the task's
    state tells which).
    """
    outcome = Outcome.LOST if crashed else Outcome.RETURNED
    where = {"b_id": task_id, "b_token": token, "b_now": now}
    back = conn.execute(_REQUEUE, where | {"b_crashes": int(crashed)}).one_or_none()
    if back is None:
        return None
    attempts.end(conn, [(task_id, back.attempt)], outcome, now=now)
    if back.state == TaskState.CANCELLED:
        return None
    turns.count(conn, lane=back.lane, owner=back.owner, step=1)
    return int(back.crashes)


def cancel(conn: Connection, task_id: str, *, now: float) -> Task | None:
    """End a waiting task at once, or ask for the end of one that is worked on.

    Returns the task as it is then: cancelled, still processing, or ended before. None: unknown.
    """
    moved = conn.execute(_CANCEL, {"b_id": task_id, "b_now": now}).one_or_none()
    if moved is not None and moved.state == TaskState.CANCELLED:
        turns.count(conn, lane=moved.lane, owner=moved.owner, step=-1)
    return get(conn, task_id)


def expire_waiting(
    conn: Connection, *, before: float, error: ErrorInfo, now: float, limit: int = 100
) -> list[str]:
    """pending → failed for up to `limit` tasks that have waited since before `before`."""
    values = {
        "b_before": before,
        "b_limit": limit,
        "b_now": now,
        "b_error": error.model_dump_json(),
    }
    rows = conn.execute(_EXPIRE, values).all()
    _count_all(conn, rows, step=-1)
    return [row.id for row in rows]


def refuse(conn: Connection, task_id: str, *, error: ErrorInfo, now: float) -> bool:
    """pending → failed for one task that cannot be worked on. False: it does not wait."""
    values = {"b_id": task_id, "b_now": now, "b_error": error.model_dump_json()}
    rows = conn.execute(_REFUSE, values).all()
    _count_all(conn, rows, step=-1)
    return bool(rows)


def recover(conn: Connection, *, now: float) -> list[str]:
    """At the start: no task is worked on any more. Returns those that wait again.

    The server's death is not the tasks' fault: nothing is counted towards poison. Tasks that
    were to be cancelled are.
    """
    rows = conn.execute(_RECOVER, {"b_now": now}).all()
    attempts.end(conn, [(row.id, row.attempt) for row in rows], Outcome.LOST, now=now)
    waiting = [row for row in rows if row.state == TaskState.PENDING]
    _count_all(conn, waiting, step=1)
    return [row.id for row in waiting]


def _end(
    conn: Connection,
    where: dict[str, Any],
    state: TaskState,
    outcome: Outcome,
    *,
    result: Result | None = None,
    error: ErrorInfo | None = None,
) -> Row[Any] | None:
    """processing → `state`, with its attempt; None: fenced off."""
    values = {
        "b_state": state.value,
        "b_result": result.model_dump_json() if result else None,
        "b_error": error.model_dump_json() if error else None,
        "b_crashes": int(outcome is Outcome.LOST),
    }
    ended = conn.execute(_END, where | values).one_or_none()
    if ended is not None:
        attempt = [(where["b_id"], ended.attempt)]
        attempts.end(conn, attempt, outcome, now=where["b_now"], result=result, error=error)
    return ended


def _ended_so(conn: Connection, task_id: str, token: str, state: TaskState) -> bool:
    """Whether this attempt was the one that ended the task in `state`."""
    where = {"b_id": task_id, "b_token": token, "b_state": state.value}
    return conn.execute(_ENDED_SO, where).first() is not None


def _count_all(conn: Connection, rows: Sequence[Row[Any]], *, step: int) -> None:
    for (lane, owner), number in Counter((row.lane, row.owner) for row in rows).items():
        turns.count(conn, lane=lane, owner=owner, step=step * number)
