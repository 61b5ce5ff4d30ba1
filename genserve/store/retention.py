"""Deletes what is too old or too much: ended tasks, the oldest first, with all that is theirs."""

from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    bindparam,
    delete,
    func,
    select,
    union_all,
)

from genserve.store import blob_rows
from genserve.store.schema import blobs, idempotency, images, inputs, tasks
from genserve.store.task_queries import ENDED

_OLDEST = (
    select(tasks.c.id, tasks.c.finished_at)
    .where(ENDED)
    .order_by(tasks.c.finished_at, tasks.c.id)
    .limit(bindparam("limit"))
)
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_NAMED = union_all(
    select(images.c.task_id, images.c.sha256).where(images.c.task_id.in_(_IDS)),
    select(inputs.c.task_id, inputs.c.sha256).where(inputs.c.task_id.in_(_IDS)),
).subquery()
_BYTES = (
    select(_NAMED.c.task_id, func.sum(blobs.c.size_bytes))
    .join_from(_NAMED, blobs, _NAMED.c.sha256 == blobs.c.sha256)
    .group_by(_NAMED.c.task_id)
)
_FORGET_CLAIMS = delete(idempotency).where(idempotency.c.task_id.in_(_IDS))


def purge(
    conn: Connection, *, now: float, max_age_s: float, max_bytes: int, limit: int = 1000
) -> list[str]:
    """Delete up to `limit` ended tasks: those older than `max_age_s`, and the oldest while all
    pictures together take more than `max_bytes`.

    Returns the names of the pictures that nothing names any more; the caller deletes their files
    (`BlobStore.delete`).
    """
    oldest = conn.execute(_OLDEST, {"limit": limit}).all()
    doomed = [task.id for task in oldest if task.finished_at < now - max_age_s]
    others = [task.id for task in oldest[len(doomed) :]]
    doomed += _holding(conn, doomed, others, blob_rows.stored_bytes(conn) - max_bytes)
    if doomed:
        conn.execute(_FORGET_CLAIMS, {"ids": doomed})
    return blob_rows.delete_tasks(conn, doomed)


def _holding(conn: Connection, doomed: list[str], others: list[str], excess: int) -> list[str]:
    """The first of `others` that, with `doomed`, name pictures of at least `excess` bytes."""
    if excess <= 0 or not others:
        return []
    sizes = {row[0]: int(row[1]) for row in conn.execute(_BYTES, {"ids": doomed + others})}
    excess -= sum(sizes.get(task_id, 0) for task_id in doomed)
    chosen: list[str] = []
    for task_id in others:
        if excess <= 0:
            break
        excess -= sizes.get(task_id, 0)
        chosen.append(task_id)
    return chosen
