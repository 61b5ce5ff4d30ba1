"""What is too old or too much goes, with its pictures, and nothing that is still wanted."""

from typing import Any

from sqlalchemy import Connection, func, select

from genserve.store import blob_rows, schema, tasks
from genserve.store.database import Database
from tests.store.building import (
    NOW,
    claimed,
    digest,
    file,
    insert,
    new_task,
    picture,
    read,
    result,
    write,
)

FOREVER = 1e12
NO_LIMIT = 10**15


def finished(database: Database, *names: str, at: float = NOW, inputs: tuple[str, ...] = ()) -> str:
    """A finished task with pictures of 100 bytes each."""
    task_id, token = claimed(database, new_task(*(file(name) for name in inputs)))
    made = result(*(picture(name) for name in names))
    assert write(database, tasks.finish, task_id, token, made, now=at)
    return task_id


def purge(database: Database, **limits: Any) -> set[str]:
    values = {"now": NOW + 100, "max_age_s": FOREVER, "max_bytes": NO_LIMIT} | limits
    gone = write(database, tasks.purge, **values)
    assert len(gone) == len(set(gone))
    return set(gone)


def exists(database: Database, *ids: str) -> list[bool]:
    return [read(database, tasks.get, task_id) is not None for task_id in ids]


def test_old_ended_tasks_go_with_all_that_is_theirs(database: Database) -> None:
    old, young = finished(database, "old", at=NOW), finished(database, "young", at=NOW + 60)
    assert purge(database, max_age_s=50.0) == {digest("old")}
    assert exists(database, old, young) == [False, True]

    def rows(conn: Connection) -> list[int]:
        tables = (schema.attempts, schema.images, schema.blobs)
        return [conn.execute(select(func.count()).select_from(t)).scalar_one() for t in tables]

    assert read(database, rows) == [1, 1, 1]


def test_tasks_that_have_not_ended_stay(database: Database) -> None:
    waiting = insert(database, new_task(file("in")))
    running, _ = claimed(database)
    assert purge(database, max_age_s=0.0, max_bytes=0) == set()
    assert exists(database, waiting, running) == [True, True]


def test_a_picture_that_others_name_stays(database: Database) -> None:
    finished(database, "shared", "own", at=NOW)
    other = finished(database, "shared", at=NOW + 60, inputs=("own-input",))
    insert(database, new_task(file("own")))
    assert purge(database, max_age_s=50.0) == set()
    assert exists(database, other) == [True]
    assert purge(database, max_age_s=0.0) == {digest("shared"), digest("own-input")}


def test_a_picture_named_twice_by_one_task_is_counted_twice(database: Database) -> None:
    finished(database, "same", "same", inputs=("same", "same"))
    assert purge(database, max_age_s=0.0) == {digest("same")}


def test_the_oldest_go_while_there_is_too_much(database: Database) -> None:
    ids = [finished(database, f"p{n}", at=NOW + n) for n in range(5)]
    assert read(database, blob_rows.stored_bytes) == 500
    assert purge(database, max_bytes=500) == set()
    assert purge(database, max_bytes=250) == {digest(f"p{n}") for n in range(3)}
    assert exists(database, *ids) == [False, False, False, True, True]
    assert read(database, blob_rows.stored_bytes) == 200


def test_only_so_many_go_at_once(database: Database) -> None:
    ids = [finished(database, f"p{n}", at=NOW + n) for n in range(5)]
    assert purge(database, max_age_s=0.0, limit=2) == {digest("p0"), digest("p1")}
    assert exists(database, *ids) == [False, False, True, True, True]


def test_a_picture_that_is_named_again_gets_a_new_row(database: Database) -> None:
    finished(database, "again")
    assert purge(database, max_age_s=0.0) == {digest("again")}
    insert(database, new_task(file("again")))
    assert read(database, tasks.known_blobs, [digest("again")]) == {digest("again")}
    assert purge(database, max_age_s=0.0) == set()
