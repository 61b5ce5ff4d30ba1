"""Reads of the queue; nothing here moves a task."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, func, select, text, tuple_

from genserve.domain.request import GenerationRequest
from genserve.domain.task import ErrorInfo, Result, Task, TaskState
from genserve.store.schema import attempts, lanes, tasks

REQUEST_VERSION = 1
"""The form of the stored requests; a change of GenerationRequest that old documents do not fit
raises it, and `_request` then turns the older ones into the new form."""

# Literal, so that both databases see that a partial index fits.
PENDING = text("state = 'pending'")
OPEN = tasks.c.finished_at.is_(None)
ENDED = tasks.c.finished_at.is_not(None)

_LAST_ATTEMPT = and_(attempts.c.task_id == tasks.c.id, attempts.c.number == tasks.c.attempt)
_TASKS = select(tasks, attempts.c.resolved, attempts.c.worker).select_from(
    tasks.outerjoin(attempts, _LAST_ATTEMPT)
)
_ONE = _TASKS.where(tasks.c.id == bindparam("id"))
_CANDIDATES = (
    select(tasks.c.id, tasks.c.rank, tasks.c.priority, tasks.c.warm_key, tasks.c.passed)
    .where(PENDING, tasks.c.lane == bindparam("lane"))
    .order_by(tasks.c.rank, tasks.c.id)
    .limit(bindparam("limit"))
)
_PLACE = select(tasks.c.lane, tasks.c.rank).where(PENDING, tasks.c.id == bindparam("id"))
_AHEAD = (
    select(func.count())
    .select_from(tasks)
    .where(
        PENDING,
        tasks.c.lane == bindparam("lane"),
        tuple_(tasks.c.rank, tasks.c.id) < tuple_(bindparam("rank"), bindparam("id")),
    )
)
_WAITING = select(func.coalesce(func.sum(lanes.c.waiting), 0))
_PROCESSING = (
    select(func.count()).select_from(tasks).where(OPEN, tasks.c.state == TaskState.PROCESSING.value)
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting task, as far as a decision about order needs it."""

    id: str
    rank: float
    priority: int
    warm_key: str
    passed: int


def candidates(conn: Connection, lane: str, *, limit: int) -> list[Candidate]:
    """The first of a lane, next one first."""
    rows = conn.execute(_CANDIDATES, {"lane": lane, "limit": limit})
    return [Candidate(*row) for row in rows]


def get(conn: Connection, task_id: str) -> Task | None:
    """A task, or None when there is none of that id."""
    row = conn.execute(_ONE, {"id": task_id}).one_or_none()
    return None if row is None else _task(row)


def list_tasks(
    conn: Connection,
    *,
    owner: str | None,
    state: TaskState | None,
    limit: int,
    before: str | None,
) -> list[Task]:
    """Tasks, newest first; `before` is the id of the last one of the page before."""
    query = _TASKS.order_by(tasks.c.id.desc()).limit(limit)
    if owner is not None:
        query = query.where(tasks.c.owner == owner)
    if state is not None:
        query = query.where(ENDED if state.ended else OPEN, tasks.c.state == state.value)
    if before is not None:
        query = query.where(tasks.c.id < before)
    return [_task(row) for row in conn.execute(query)]


def position(conn: Connection, task_id: str) -> int | None:
    """Where a waiting task stands in its lane, from 1; None when it does not wait."""
    place = conn.execute(_PLACE, {"id": task_id}).one_or_none()
    if place is None:
        return None
    ahead = {"id": task_id, "lane": place.lane, "rank": place.rank}
    return int(conn.execute(_AHEAD, ahead).scalar_one()) + 1


def counts(conn: Connection) -> dict[TaskState, int]:
    """How many tasks wait and how many are worked on; the ended ones are not counted."""
    return {
        TaskState.PENDING: int(conn.execute(_WAITING).scalar_one()),
        TaskState.PROCESSING: int(conn.execute(_PROCESSING).scalar_one()),
    }


def _task(row: Row[Any]) -> Task:
    stored = row._mapping
    return Task(
        id=stored["id"],
        owner=stored["owner"],
        key_id=stored["key_id"],
        dialect=stored["dialect"],
        asked=_request(stored["asked"], stored["request_version"]),
        priority=stored["priority"],
        rank=stored["rank"],
        lane=stored["lane"],
        state=TaskState(stored["state"]),
        created_at=datetime.fromtimestamp(stored["created_at"], UTC),
        started_at=_time(stored["started_at"]),
        finished_at=_time(stored["finished_at"]),
        attempt=stored["attempt"],
        crashes=stored["crashes"],
        resolved=_request(stored["resolved"], stored["request_version"])
        if stored["resolved"]
        else None,
        worker=stored["worker"],
        result=Result.model_validate_json(stored["result"]) if stored["result"] else None,
        error=ErrorInfo.model_validate_json(stored["error"]) if stored["error"] else None,
    )


def _request(document: str, version: int) -> GenerationRequest:
    assert version == REQUEST_VERSION, "there has been one form only"
    return GenerationRequest.model_validate_json(document)


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
