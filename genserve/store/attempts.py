"""The rows of attempts: who worked on a task, on what exactly, and how it ended."""

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy import Connection, bindparam, select, update

from genserve.domain.request import GenerationRequest
from genserve.domain.task import ErrorInfo, Outcome, Result
from genserve.store.schema import attempts

_THIS = (attempts.c.task_id == bindparam("b_id")) & (attempts.c.number == bindparam("b_number"))
_ADD = sa.insert(attempts)
_END = (
    update(attempts)
    .where(_THIS)
    .values(
        outcome=bindparam("b_outcome"),
        finished_at=bindparam("b_now"),
        error=bindparam("b_error"),
        degraded=bindparam("b_degraded"),
    )
)
_RESOLVED = select(attempts.c.resolved).where(_THIS)


def add(
    conn: Connection,
    task_id: str,
    number: int,
    *,
    token: str,
    backend: str,
    worker: str,
    epoch: int,
    resolved: GenerationRequest,
    now: float,
) -> None:
    """A worker is given a task."""
    row = {
        "task_id": task_id,
        "number": number,
        "token": token,
        "backend": backend,
        "worker": worker,
        "epoch": epoch,
        "resolved": resolved.model_dump_json(),
        "started_at": now,
    }
    conn.execute(_ADD, row)


def end(
    conn: Connection,
    ended: Iterable[tuple[str, int]],
    outcome: Outcome,
    *,
    now: float,
    result: Result | None = None,
    error: ErrorInfo | None = None,
) -> None:
    """Attempts, as (task id, number), are over."""
    rows = [
        {
            "b_id": task_id,
            "b_number": number,
            "b_outcome": outcome.value,
            "b_now": now,
            "b_error": error.model_dump_json() if error else None,
            "b_degraded": result.model_dump_json(include={"degraded"}) if result else None,
        }
        for task_id, number in ended
    ]
    if rows:
        conn.execute(_END, rows)


def resolved(conn: Connection, task_id: str, number: int) -> GenerationRequest:
    """What an attempt was asked to do."""
    document = conn.execute(_RESOLVED, {"b_id": task_id, "b_number": number}).scalar_one()
    return GenerationRequest.model_validate_json(document)
