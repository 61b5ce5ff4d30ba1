"""A database that is locked, full, read-only, gone, or restarted: a clear error, nothing lost,
and the next write works again."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, insert, select

from genserve.errors import StoreUnavailable
from genserve.store.database import Database
from genserve.store.schema import owners
from tests.databases import PostgresServer


def add(conn: Connection, name: str) -> str:
    conn.execute(insert(owners).values(id=name, created_at=0.0))
    return name


def names(conn: Connection) -> list[str]:
    return list(conn.execute(select(owners.c.id).order_by(owners.c.id)).scalars())


def refused(database: Database, problem: str, name: str = "never") -> None:
    """A write fails with this problem, and says when to try again."""
    with pytest.raises(StoreUnavailable) as caught:
        database.write(lambda conn: add(conn, name)).result(60)
    assert caught.value.params["problem"] == problem
    assert caught.value.retry_after_s


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Somebody else's connection that lets nobody write."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    yield
    other.execute("ROLLBACK")
    other.close()


def test_sqlite_locked_by_somebody_else(tmp_path: Path, sqlite_url: str) -> None:
    database = Database.open(sqlite_url, busy_timeout_s=0.05)
    database.write(lambda conn: add(conn, "before")).result(30)
    with exclusive_lock(tmp_path / "genserve.db"):
        refused(database, "locked")
        futures = [database.write(partial(add, name=f"x{n}")) for n in range(5)]
        for future in futures:
            with pytest.raises(StoreUnavailable, match="locked"):
                future.result(30)
        assert database.read(names).result(30) == ["before"]
    database.write(lambda conn: add(conn, "later")).result(30)
    assert database.read(names).result(30) == ["before", "later"]
    database.close()


def test_sqlite_lock_that_goes_away_in_time_is_waited_for(tmp_path: Path, sqlite_url: str) -> None:
    database = Database.open(sqlite_url, busy_timeout_s=30)
    with exclusive_lock(tmp_path / "genserve.db"):
        future = database.write(lambda conn: add(conn, "patient"))
        assert not future.done()
    assert future.result(60) == "patient"
    database.close()


def test_sqlite_locked_while_it_is_opened(tmp_path: Path, sqlite_url: str) -> None:
    Database.open(sqlite_url).close()
    with exclusive_lock(tmp_path / "genserve.db"), pytest.raises(StoreUnavailable, match="locked"):
        Database.open(sqlite_url, busy_timeout_s=0.05)
    Database.open(sqlite_url).close()


def test_sqlite_full(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)
    database.write(lambda conn: add(conn, "before")).result(30)

    def no_more_pages(conn: Connection) -> None:
        pages = conn.exec_driver_sql("PRAGMA page_count").scalar_one()
        conn.exec_driver_sql(f"PRAGMA max_page_count = {pages + 1}")

    database.write(no_more_pages).result(30)
    big = "n" * 200_000
    refused(database, "disk full", big)
    assert database.read(names).result(30) == ["before"]
    # The disk has room again: the limit went with the connection that failed.
    assert database.write(lambda conn: add(conn, big)).result(30) == big
    assert database.read(names).result(30) == ["before", big]
    database.close()


def test_sqlite_read_only(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)
    database.write(lambda conn: conn.exec_driver_sql("PRAGMA query_only = ON").close()).result(30)
    refused(database, "read-only")
    database.write(lambda conn: add(conn, "later")).result(30)
    assert database.read(names).result(30) == ["later"]
    database.close()


OPEN_AS_NOBODY = """
import os, sys
from genserve.errors import StoreUnavailable
from genserve.store.database import Database
Database.open(sys.argv[1]).close()  # everything is imported now
os.chmod(sys.argv[2] + "/genserve.db", 0o444)
os.chmod(sys.argv[2], 0o555)
if os.getuid() == 0:  # for whom nothing is read-only
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    Database.open(sys.argv[1], busy_timeout_s=0.1)
except StoreUnavailable as error:
    print(error.params["problem"])
"""


def test_sqlite_file_that_may_only_be_read() -> None:
    # Not in pytest's own folder: another user must get there.
    folder = Path(tempfile.mkdtemp(prefix="genserve-read-only-"))
    told = subprocess.run(
        [sys.executable, "-c", OPEN_AS_NOBODY, f"sqlite:///{folder}/genserve.db", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    folder.chmod(0o755)
    shutil.rmtree(folder)
    assert told.stdout.strip() == "read-only", told.stderr


def test_postgres_ends_our_connections(postgres_url: str, postgres_server: PostgresServer) -> None:
    database = Database.open(postgres_url)
    database.write(lambda conn: add(conn, "before")).result(30)
    assert database.read(names).result(30) == ["before"]
    postgres_server.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'genserve'"
    )
    # Idle connections were lost: nobody need notice.
    assert database.read(names).result(30) == ["before"]
    assert database.write(lambda conn: add(conn, "later")).result(30) == "later"
    database.close()


def test_postgres_ends_a_connection_in_the_middle(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    database = Database.open(postgres_url)
    tries = []

    def killed_once(conn: Connection) -> str:
        add(conn, "once")
        tries.append(1)
        if len(tries) == 1:
            pid = conn.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            postgres_server.run(f"SELECT pg_terminate_backend({pid})")
            conn.exec_driver_sql("SELECT 1")
        return "done"

    assert database.write(killed_once).result(30) == "done"
    assert len(tries) == 2
    assert database.read(names).result(30) == ["once"]
    database.close()


def test_postgres_restarts(postgres_url: str, postgres_server: PostgresServer) -> None:
    database = Database.open(postgres_url, busy_timeout_s=2)
    database.write(lambda conn: add(conn, "before")).result(30)
    assert database.read(names).result(30) == ["before"]
    postgres_server.stop()
    try:
        refused(database, "unreachable")
        with pytest.raises(StoreUnavailable, match="unreachable"):
            database.read(names).result(30)
        with pytest.raises(StoreUnavailable, match="unreachable"):
            Database.open(postgres_url, busy_timeout_s=2)
    finally:
        postgres_server.start()
    database.write(lambda conn: add(conn, "later")).result(30)
    assert database.read(names).result(30) == ["before", "later"]
    database.close()


def test_postgres_table_locked_by_somebody_else(postgres_url: str) -> None:
    database = Database.open(postgres_url, busy_timeout_s=0.1)
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE owners IN EXCLUSIVE MODE")
        refused(database, "locked")
        assert database.read(names).result(30) == []
    database.write(lambda conn: add(conn, "later")).result(30)
    database.close()


def test_postgres_read_only(postgres_url: str) -> None:
    database = Database.open(postgres_url)

    def forbid(conn: Connection) -> None:
        conn.exec_driver_sql("SET default_transaction_read_only = on")

    database.write(forbid).result(30)
    refused(database, "read-only")
    assert database.write(lambda conn: add(conn, "later")).result(30) == "later"
    database.close()


def test_postgres_deadlock_of_two_servers_is_solved_by_trying_again(postgres_url: str) -> None:
    one, two = Database.open(postgres_url), Database.open(postgres_url)
    one.write(lambda conn: [add(conn, "a"), add(conn, "b")]).result(30)
    both_hold = threading.Barrier(2, timeout=30)

    def touch(conn: Connection, first: str, second: str, tries: list[int]) -> int:
        tries.append(1)
        conn.execute(owners.update().where(owners.c.id == first).values(weight=2))
        if len(tries) == 1:
            both_hold.wait()
        conn.execute(owners.update().where(owners.c.id == second).values(weight=2))
        return len(tries)

    futures = [
        one.write(partial(touch, first="a", second="b", tries=[])),
        two.write(partial(touch, first="b", second="a", tries=[])),
    ]
    assert sorted(future.result(60) for future in futures) == [1, 2]
    one.close()
    two.close()
