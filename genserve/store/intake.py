"""How a task gets into the queue: idempotency, limits, its turn, and its rows, all or nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, bindparam, select

from genserve.config import Queue
from genserve.domain.request import GenerationRequest
from genserve.domain.task import TaskState
from genserve.errors import IdempotencyMismatch
from genserve.store import blob_rows, turns
from genserve.store.prepared import Prepared
from genserve.store.schema import idempotency, tasks
from genserve.store.task_queries import REQUEST_VERSION
from genserve.store.upserts import per_database


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be accepted. `cost_s` is its work in seconds, for fair shares."""

    id: str
    owner: str
    key_id: str
    dialect: str
    asked: GenerationRequest
    priority: int
    lane: str
    warm_key: str
    cost_s: float


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """The Idempotency-Key of a request: whose, its value, and what the request was."""

    key_digest: str
    value: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Inserted:
    """The accepted task; `replayed`: an earlier one with the same Idempotency-Key."""

    task_id: str
    replayed: bool
    rank: float


def _claim(insert_into: Callable[..., Any]) -> Any:
    new = insert_into(idempotency)
    return new.on_conflict_do_update(
        index_elements=[idempotency.c.key_digest, idempotency.c.value],
        set_={name: new.excluded[name] for name in ("fingerprint", "task_id", "created_at")},
        where=idempotency.c.created_at < bindparam("b_expired"),
    ).returning(idempotency.c.task_id)


_CLAIM = per_database(_claim)
_CLAIMED = select(idempotency.c.fingerprint, idempotency.c.task_id, tasks.c.rank).where(
    idempotency.c.key_digest == bindparam("key_digest"),
    idempotency.c.value == bindparam("value"),
    idempotency.c.task_id == tasks.c.id,
)
_INSERT = Prepared(
    sa.insert(tasks).values(
        {
            name: bindparam(name)
            for name in (
                *("id", "owner", "key_id", "dialect", "state", "lane", "priority", "turn", "rank"),
                *("warm_key", "request_version", "asked"),
                *("created_at", "waiting_since"),
            )
        }
    )
)


def insert(
    conn: Connection,
    task: NewTask,
    *,
    now: float,
    queue: Queue,
    claim: IdempotencyClaim | None = None,
) -> Inserted:
    """Accept a task, or find the one that the same Idempotency-Key has led to before.

    Raises `IdempotencyMismatch`, `QueueFull` and `OwnerQueueFull`; then nothing is kept.
    """
    if claim is not None:
        earlier = _claimed_before(conn, claim, task.id, now, queue)
        if earlier is not None:
            return earlier
    turn = turns.join(
        conn, lane=task.lane, owner=task.owner, cost_s=task.cost_s, now=now, queue=queue
    )
    rank = turns.rank(turn, task.priority, queue)
    row = {
        "id": task.id,
        "owner": task.owner,
        "key_id": task.key_id,
        "dialect": task.dialect,
        "state": TaskState.PENDING.value,
        "lane": task.lane,
        "priority": task.priority,
        "turn": turn,
        "rank": rank,
        "warm_key": task.warm_key,
        "request_version": REQUEST_VERSION,
        "asked": task.asked.model_dump_json(),
        "created_at": now,
        "waiting_since": now,
    }
    _INSERT.run(conn, row)
    blob_rows.add_inputs(conn, task.id, task.asked.files(), now=now)
    return Inserted(task.id, replayed=False, rank=rank)


def _claimed_before(
    conn: Connection, claim: IdempotencyClaim, task_id: str, now: float, queue: Queue
) -> Inserted | None:
    """Claim the key for this task, or tell whose it is.

    The claim comes first, so that of two servers with the same key one waits for the other here.
    """
    row = {
        "key_digest": claim.key_digest,
        "value": claim.value,
        "fingerprint": claim.fingerprint,
        "task_id": task_id,
        "created_at": now,
        "b_expired": now - queue.idempotency_ttl_s,
    }
    if conn.execute(_CLAIM[conn.dialect.name], row).scalar_one_or_none() is not None:
        return None
    key = {"key_digest": claim.key_digest, "value": claim.value}
    earlier = conn.execute(_CLAIMED, key).one()
    if earlier.fingerprint != claim.fingerprint:
        raise IdempotencyMismatch(key=claim.value)
    return Inserted(earlier.task_id, replayed=True, rank=earlier.rank)
