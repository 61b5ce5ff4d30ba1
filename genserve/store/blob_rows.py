"""Counted rows of stored pictures: a file is wanted while an image or an input names it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    bindparam,
    delete,
    func,
    insert,
    select,
    union_all,
    update,
)

from genserve.domain.request import FileRef
from genserve.domain.task import ResultImage
from genserve.store.schema import blobs, images, inputs, tasks
from genserve.store.upserts import per_database


def _refer(insert_into: Callable[..., Any]) -> Any:
    return insert_into(blobs).on_conflict_do_update(
        index_elements=[blobs.c.sha256], set_={"refs": blobs.c.refs + 1}
    )


_REFER = per_database(_refer)
_ADD_IMAGE = insert(images)
_ADD_INPUT = insert(inputs)
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_NAMED = union_all(
    select(images.c.sha256).where(images.c.task_id.in_(_IDS)),
    select(inputs.c.sha256).where(inputs.c.task_id.in_(_IDS)),
).subquery()
_NAMED_COUNTS = select(_NAMED.c.sha256, func.count()).group_by(_NAMED.c.sha256)
_LET_GO = (
    update(blobs)
    .where(blobs.c.sha256 == bindparam("b_sha256"))
    .values(refs=blobs.c.refs - bindparam("b_count"))
)
_DELETE_TASKS = delete(tasks).where(tasks.c.id.in_(_IDS))
_DELETE_UNNAMED = (
    delete(blobs)
    .where(blobs.c.refs <= 0, blobs.c.sha256.in_(bindparam("names", expanding=True)))
    .returning(blobs.c.sha256)
)
_KNOWN = select(blobs.c.sha256).where(blobs.c.sha256.in_(bindparam("names", expanding=True)))
_STORED_BYTES = select(func.coalesce(func.sum(blobs.c.size_bytes), 0))


def add_inputs(conn: Connection, task_id: str, files: Iterable[FileRef], *, now: float) -> None:
    """Name the files that a task needs."""
    for position, file in enumerate(files):
        _name(conn, file, now)
        row = {"task_id": task_id, "position": position, "sha256": file.sha256}
        conn.execute(_ADD_INPUT, row)


def add_images(
    conn: Connection, task_id: str, pictures: Iterable[ResultImage], *, now: float
) -> None:
    """Name the pictures that a task made."""
    for position, picture in enumerate(pictures):
        _name(conn, picture, now)
        row = {
            "task_id": task_id,
            "position": position,
            "sha256": picture.sha256,
            "seed": picture.seed,
        }
        conn.execute(_ADD_IMAGE, row)


def _name(conn: Connection, file: FileRef | ResultImage, now: float) -> None:
    row = {
        "sha256": file.sha256,
        "media_type": file.media_type,
        "size_bytes": file.size_bytes,
        "width": file.width,
        "height": file.height,
        "refs": 1,
        "created_at": now,
    }
    conn.execute(_REFER[conn.dialect.name], row)


def delete_tasks(conn: Connection, ids: Sequence[str]) -> list[str]:
    """Delete tasks with all that belongs to them.

    Returns the names of the pictures that nothing names any more and whose rows are gone: their
    files may be deleted. A picture that is named again later gets a new row.
    """
    if not ids:
        return []
    counts = [
        {"b_sha256": sha256, "b_count": count}
        for sha256, count in conn.execute(_NAMED_COUNTS, {"ids": ids})
    ]
    conn.execute(_DELETE_TASKS, {"ids": ids})
    if not counts:
        return []
    conn.execute(_LET_GO, counts)
    names = [row["b_sha256"] for row in counts]
    return list(conn.execute(_DELETE_UNNAMED, {"names": names}).scalars())


def known_blobs(conn: Connection, names: Sequence[str]) -> set[str]:
    """Which of these names have a row."""
    return set(conn.execute(_KNOWN, {"names": names}).scalars())


def stored_bytes(conn: Connection) -> int:
    """How much all pictures take."""
    return int(conn.execute(_STORED_BYTES).scalar_one())
