"""The writer and the readers: atomic functions, shared commits, order, closing."""

import asyncio
import threading
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select
from sqlalchemy.exc import IntegrityError

from genserve.errors import ShuttingDown, StartupError
from genserve.store.database import Database
from genserve.store.schema import owners


def add(conn: Connection, name: str) -> str:
    conn.execute(insert(owners).values(id=name, created_at=0.0))
    return name


def names(conn: Connection) -> set[str]:
    return set(conn.execute(select(owners.c.id)).scalars())


class Held:
    """Keeps the writer busy, so that what is written meanwhile comes into one batch."""

    def __init__(self, database: Database) -> None:
        self._gate = threading.Event()
        self._begun = threading.Event()
        self.future = database.write(self._hold)
        assert self._begun.wait(30)

    def _hold(self, _: Connection) -> None:
        self._begun.set()
        self._gate.wait(30)

    def let_go(self) -> None:
        self._gate.set()
        self.future.result(30)


def test_a_write_is_read_by_every_reader_at_once(database: Database) -> None:
    assert database.write(lambda conn: add(conn, "ann")).result(30) == "ann"
    reads = [database.read(names) for _ in range(8)]
    assert [future.result(30) for future in reads] == [{"ann"}] * 8


def test_a_function_that_raises_leaves_nothing_and_spares_its_neighbours(
    database: Database,
) -> None:
    def half(conn: Connection) -> None:
        add(conn, "half")
        raise LookupError("no")

    held = Held(database)
    good = database.write(lambda conn: add(conn, "good"))
    bad = database.write(half)
    double = database.write(lambda conn: add(conn, "good"))
    late = database.write(lambda conn: add(conn, "late"))
    held.let_go()
    assert good.result(30) == "good"
    with pytest.raises(LookupError):
        bad.result(30)
    with pytest.raises(IntegrityError):
        double.result(30)
    assert late.result(30) == "late"
    assert database.read(names).result(30) == {"good", "late"}


def test_what_waits_shares_a_commit(database: Database) -> None:
    def transaction(conn: Connection) -> int:
        if conn.dialect.name == "postgresql":
            return int(conn.exec_driver_sql("SELECT txid_current()").scalar_one())
        add(conn, f"owner-{threading.get_ident()}-{conn.exec_driver_sql(COUNT).scalar_one()}")
        raw = conn.connection.driver_connection
        assert raw is not None
        assert raw.in_transaction
        return 0

    COUNT = "SELECT count(*) FROM owners"
    held = Held(database)
    futures = [database.write(transaction) for _ in range(50)]
    held.let_go()
    assert len({future.result(30) for future in futures}) == 1


def test_nothing_is_told_before_its_commit(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)
    other = Database.open(sqlite_url)
    held = Held(database)
    future = database.write(lambda conn: add(conn, "ann"))
    assert not future.done()
    held.let_go()
    future.result(30)
    assert other.read(names).result(30) == {"ann"}
    other.close()
    database.close()


def test_a_cancelled_write_is_not_run(database: Database) -> None:
    held = Held(database)
    future = database.write(lambda conn: add(conn, "ann"))
    assert future.cancel()
    held.let_go()
    assert database.read(names).result(30) == set()
    with pytest.raises(CancelledError):
        future.result(30)


async def test_a_coroutine_can_wait_for_it_and_give_up(database: Database) -> None:
    assert await asyncio.wrap_future(database.write(lambda conn: add(conn, "ann"))) == "ann"
    waiting = asyncio.wrap_future(database.write(lambda conn: add(conn, "bob")))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wrap_future(database.write(lambda conn: add(conn, "eve")))
    assert {"ann", "eve"} <= await asyncio.wrap_future(database.read(names))


def test_a_reader_cannot_write(database: Database) -> None:
    from genserve.errors import StoreUnavailable

    with pytest.raises(StoreUnavailable, match="read-only"):
        database.read(lambda conn: add(conn, "ann")).result(30)
    assert database.read(names).result(30) == set()


def test_a_reader_sees_one_moment(database: Database) -> None:
    if database.read(lambda conn: conn.dialect.name).result(30) == "postgresql":
        return  # each statement sees its own moment there, which no read here minds
    first_done, written = threading.Event(), threading.Event()

    def count_twice(conn: Connection) -> tuple[int, int]:
        first = conn.execute(select(func.count()).select_from(owners)).scalar_one()
        first_done.set()
        assert written.wait(30)
        return first, conn.execute(select(func.count()).select_from(owners)).scalar_one()

    reading = database.read(count_twice)
    assert first_done.wait(30)
    database.write(lambda conn: add(conn, "ann")).result(30)
    written.set()
    assert reading.result(30) == (0, 0)


def test_close_finishes_what_was_asked_for_and_refuses_the_rest(database_url: str) -> None:
    database = Database.open(database_url)
    futures = [database.write(partial(add, name=f"o{n}")) for n in range(300)]
    database.close()
    database.close()
    assert [future.result(0) for future in futures] == [f"o{n}" for n in range(300)]
    with pytest.raises(ShuttingDown):
        database.write(names).result(0)
    with pytest.raises(ShuttingDown):
        database.read(names).result(0)
    again = Database.open(database_url)
    assert len(again.read(names).result(30)) == 300
    again.close()


def test_sqlite_is_opened_as_the_decision_says(sqlite_url: str) -> None:
    database = Database.open(sqlite_url, busy_timeout_s=1.5)

    def pragmas(conn: Connection) -> dict[str, object]:
        wanted = ("journal_mode", "foreign_keys", "busy_timeout", "query_only", "synchronous")
        return {name: conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in wanted}

    writer = database.write(pragmas).result(30)
    loose = database.write(pragmas, durable=False).result(30)
    strict = database.write(pragmas).result(30)
    reader = database.read(pragmas).result(30)
    autocheckpoint = "PRAGMA wal_autocheckpoint"
    assert database.read(lambda c: c.exec_driver_sql(autocheckpoint).scalar()).result(30) == 0
    database.close()
    assert (
        writer
        == strict
        == {
            "journal_mode": "wal",
            "foreign_keys": 1,
            "busy_timeout": 1500,
            "query_only": 0,
            "synchronous": 2,
        }
    )
    assert loose["synchronous"] == 1
    assert (reader["query_only"], reader["busy_timeout"]) == (1, 1500)


def test_a_durable_write_makes_its_whole_batch_durable(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)
    levels = []
    held = Held(database)
    for durable in (False, True, False):
        levels.append(
            database.write(
                lambda conn: conn.exec_driver_sql("PRAGMA synchronous").scalar(), durable=durable
            )
        )
    held.let_go()
    assert [level.result(30) for level in levels] == [2, 2, 2]
    database.close()


def test_postgres_commits_without_sync_only_when_asked_to(postgres_url: str) -> None:
    database = Database.open(postgres_url)

    def level(conn: Connection) -> str:
        return str(conn.exec_driver_sql("SHOW synchronous_commit").scalar_one())

    assert database.write(level, durable=False).result(30) == "off"
    assert database.write(level).result(30) == "on"
    database.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("mysql://localhost/x", "not supported"),
        ("what is this", "not a database URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, words: str) -> None:
    with pytest.raises(StartupError, match=words):
        Database.open(url)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "genserve.db"
    path.write_bytes(b"this is a letter to the editor\n" * 100)
    with pytest.raises(StartupError, match="not a database"):
        Database.open(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"this is")
