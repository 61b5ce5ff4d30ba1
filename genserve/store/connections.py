"""How connections to the two databases are made, and what their errors mean.

SQLite: write-ahead log, every commit synced, foreign keys checked, no waiting for ever. Only the
one writer writes or checkpoints; readers are query-only (docs/decisions/0002-sqlite-queue.md).
PostgreSQL: psycopg 3, no waiting for ever.
"""

import sqlite3
from collections.abc import Callable
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from genserve.errors import StartupError, StoreUnavailable

RETRY_AFTER_S = 5.0
"""What a caller is told when the database is not available."""
OLDEST_SQLITE = (3, 35, 0)
"""The first with RETURNING."""
CACHE_KIB = 16_384
CHECKPOINT_PAGES = 4_000
"""Pages of 4 KiB in the log before the writer copies them into the database file."""
MAX_LOG_BYTES = 64 * 2**20
"""The log file is cut back to this after it once had to grow."""
SYNC_EACH_COMMIT = 2
"""`PRAGMA synchronous`: FULL."""

LOCKED, READ_ONLY, DISK_FULL, UNREACHABLE = "locked", "read-only", "disk full", "unreachable"
DAMAGED = "damaged"
CONFLICT = "conflict"
"""Two transactions stood in each other's way; the same one succeeds when it is run again."""

_SQLITE_PROBLEMS = {
    sqlite3.SQLITE_BUSY: LOCKED,
    sqlite3.SQLITE_LOCKED: LOCKED,
    sqlite3.SQLITE_READONLY: READ_ONLY,
    sqlite3.SQLITE_FULL: DISK_FULL,
    sqlite3.SQLITE_IOERR: "disk error",
    sqlite3.SQLITE_CANTOPEN: UNREACHABLE,
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: DAMAGED,
}
_POSTGRES_PROBLEMS = {
    "40001": CONFLICT,  # serialization_failure
    "40P01": CONFLICT,  # deadlock_detected
    "55P03": LOCKED,  # lock_not_available
    "57014": LOCKED,  # query_canceled: a timeout
    "25006": READ_ONLY,  # read_only_sql_transaction
    "53100": DISK_FULL,
}
_POSTGRES_GONE = ("08", "53", "57", "58", "3D", "28")
"""Classes: connection, resources, operator intervention, system, no such database, refused."""


def parse(url: str) -> URL:
    """The database's URL, with our driver. Raises `StartupError` for one that cannot be used."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StartupError(problem="store.url is not a database URL") from None
    match parsed.get_backend_name():
        case "sqlite":
            if parsed.database in {None, "", ":memory:"}:
                raise StartupError(problem="store.url must name a file, as sqlite:////srv/queue.db")
            return parsed.set(drivername="sqlite+pysqlite")
        case "postgresql":
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            raise StartupError(problem=f"store.url: {other} is not supported; use postgresql")


def engine(url: URL, *, busy_timeout_s: float, query_only: bool) -> Engine:
    """Connections that read, or those that also write; each is new, none is pooled.

    Parameters are hidden: an error's text, which is logged, must not hold prompts or ciphertexts.
    """
    if url.get_backend_name() == "sqlite":
        return _sqlite(url, busy_timeout_s, query_only=query_only)
    return _postgres(url, busy_timeout_s, query_only=query_only)


def _sqlite(url: URL, busy_timeout_s: float, *, query_only: bool) -> Engine:
    # The driver sets its timeout (busy_timeout) before anything else can meet a lock.
    options = {"timeout": busy_timeout_s, "check_same_thread": False}
    made = create_engine(url, poolclass=NullPool, connect_args=options, hide_parameters=True)
    prepare: Callable[[sqlite3.Connection], None] = _sqlite_reader if query_only else _sqlite_writer

    @event.listens_for(made, "connect")
    def _connected(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        prepare(connection)

    @event.listens_for(made, "begin")
    def _begin(connection: Connection) -> None:
        # Taking the write lock at once avoids SQLITE_BUSY in the middle of a transaction.
        connection.exec_driver_sql("BEGIN" if query_only else "BEGIN IMMEDIATE")

    return made


def _sqlite_writer(connection: sqlite3.Connection) -> None:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StartupError(problem=f"SQLite {sqlite3.sqlite_version} is too old; 3.35 is needed")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StartupError(problem="the data folder's file system cannot hold SQLite's WAL")
    for setting in (
        f"synchronous = {SYNC_EACH_COMMIT}",
        "foreign_keys = ON",
        f"cache_size = -{CACHE_KIB}",
        f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
        f"journal_size_limit = {MAX_LOG_BYTES}",
    ):
        connection.execute(f"PRAGMA {setting}")
    for pragma, wanted in (("synchronous", SYNC_EACH_COMMIT), ("foreign_keys", 1)):
        (value,) = connection.execute(f"PRAGMA {pragma}").fetchone()
        if value != wanted:
            raise StartupError(problem=f"SQLite refuses PRAGMA {pragma} = {wanted}")


def _sqlite_reader(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA wal_autocheckpoint = 0")


def _postgres(url: URL, busy_timeout_s: float, *, query_only: bool) -> Engine:
    settings = {
        "lock_timeout": f"{int(busy_timeout_s * 1000)}ms",
        "default_transaction_read_only": "on" if query_only else "off",
        "application_name": "genserve",
    }
    given = url.normalized_query.get("options", ())
    options = {
        "connect_timeout": max(2, int(busy_timeout_s)),
        "options": " ".join([*given, *(f"-c {name}={value}" for name, value in settings.items())]),
    }
    return create_engine(url, poolclass=NullPool, connect_args=options, hide_parameters=True)


def problem(error: BaseException) -> str | None:
    """What is wrong with the database, in a word or two; None when the error is not its doing."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", None)
        return None if code is None else _SQLITE_PROBLEMS.get(code & 0xFF)
    if isinstance(cause, psycopg.Error):
        state = cause.sqlstate
        if state is None:  # the connection broke, or never came to be
            return UNREACHABLE if isinstance(cause, psycopg.OperationalError) else None
        known = _POSTGRES_PROBLEMS.get(state)
        return known or (UNREACHABLE if state.startswith(_POSTGRES_GONE) else None)
    return None


def unavailable(word: str) -> StoreUnavailable:
    """The error for callers; `word` is from `problem`."""
    return StoreUnavailable(problem=word, retry_after_s=RETRY_AFTER_S)
