"""The database: one writer thread with group commit, and a few query-only readers.

A commit must reach the disk, and the disk allows few hundred of those a second. So the writer
takes whatever waits, runs each function inside a savepoint of its own, and commits them together:
the more are waiting, the more share one sync. Functions are `f(conn)`; they may be run again (after
a conflict or a lost connection) and so must touch nothing but the connection.
"""

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import URL, Connection

from genserve.errors import ShuttingDown, StartupError
from genserve.store import connections, migration
from genserve.store.connections import CONFLICT, DAMAGED, UNREACHABLE

log = logging.getLogger(__name__)
T = TypeVar("T")
Clock = Callable[[], float]
"""UTC seconds, as `time.time`: for everything that is stored."""

MAX_BATCH = 256
"""Functions in one commit at most, so that none waits long for the others."""
READERS = 4
MAX_TRIES = 5
"""How often a batch is run again after a conflict with another server's."""


@dataclass(frozen=True, slots=True)
class _Job:
    run: Callable[[Connection], Any]
    durable: bool
    future: Future[Any]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a job's function returned or raised; told only after the commit."""

    value: Any = None
    error: Exception | None = None

    def tell(self, future: Future[Any]) -> None:
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(self.value)


class Database:
    """Made by `open`; safe to use from every thread, but not from within a function it runs."""

    def __init__(self, url: URL, *, busy_timeout_s: float) -> None:
        self._writing = connections.engine(url, busy_timeout_s=busy_timeout_s, query_only=False)
        self._reading = connections.engine(url, busy_timeout_s=busy_timeout_s, query_only=True)
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._connection: Connection | None = None
        self._durable = True
        self._local = threading.local()
        self._reader_connections: list[Connection] = []
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._writer = threading.Thread(target=self._write, name="store-writer", daemon=True)
        self._writer.start()

    @classmethod
    def open(cls, url: str, *, migrate: bool = True, busy_timeout_s: float = 5.0) -> "Database":
        """Open the database and bring its tables up to date (`migrate`), or check that they are.

        `busy_timeout_s`: how long a lock of somebody else's is waited for. Raises `StartupError`
        for a database that cannot be used, `StoreUnavailable` for one that cannot be used now.
        """
        database = cls(connections.parse(url), busy_timeout_s=busy_timeout_s)
        try:
            database._prepare(create=migrate)
        except BaseException as error:
            database.close()
            word = connections.problem(error)
            if word == DAMAGED:
                raise StartupError(problem="the file at store.url is not a database") from error
            if word is not None:
                raise connections.unavailable(word) from error
            raise
        return database

    def _prepare(self, *, create: bool) -> None:
        with self._writing.connect() as connection:
            if create:
                migration.to_newest(connection)
            else:
                migration.require_newest(connection)
        self.write(lambda _: None).result()

    def write(self, f: Callable[[Connection], T], *, durable: bool = True) -> "Future[T]":
        """Run `f` in a transaction; the future resolves after the commit that holds it.

        What `f` raises is the future's exception, and then nothing of `f` is kept. Without
        `durable` the commit is not synced by itself: a power cut may undo it, but never alone
        what was committed later. The future raises `StoreUnavailable` when the database is locked,
        read-only, full or gone; nothing was changed then, except that a connection to PostgreSQL
        that breaks in the middle of a commit leaves it unknown whether it took place.
        """
        future: Future[T] = Future()
        with self._gate:
            if self._closed:
                future.set_exception(ShuttingDown(retry_after_s=connections.RETRY_AFTER_S))
            else:
                self._inbox.put(_Job(f, durable, future))
        return future

    def read(self, f: Callable[[Connection], T]) -> "Future[T]":
        """Run `f` on a query-only connection that sees one moment of the database.

        It sees every write whose future has resolved. Raises as `write` does.
        """
        with self._gate:
            if self._closed:
                future: Future[T] = Future()
                future.set_exception(ShuttingDown(retry_after_s=connections.RETRY_AFTER_S))
                return future
            return self._readers.submit(self._read, f)

    def close(self) -> None:
        """Finish what was asked for, then close every connection, the writer's last."""
        with self._gate:
            if not self._closed:
                self._inbox.put(None)
            self._closed = True
        self._readers.shutdown()
        for connection in self._reader_connections:
            _discard(connection)
        self._reader_connections.clear()
        self._writer.join()

    # The writer's thread

    def _write(self) -> None:
        while batch := self._take():
            self._commit([job for job in batch if job.future.set_running_or_notify_cancel()])
        self._disconnect()

    def _take(self) -> list[_Job]:
        """What waits, at least one; empty when the database is to be closed."""
        job = self._inbox.get()
        batch: list[_Job] = []
        while job is not None:
            batch.append(job)
            if len(batch) == MAX_BATCH:
                return batch
            try:
                job = self._inbox.get_nowait()
            except queue.Empty:
                return batch
        if batch:
            self._inbox.put(None)  # seen too early: close after this batch
        return batch

    def _commit(self, batch: list[_Job]) -> None:
        for tried in range(1, MAX_TRIES + 1):
            try:
                outcomes = self._transact(batch)
            except Exception as error:  # noqa: BLE001 - a thread's edge: every future must be told
                again = self._may_run_again(error) and tried < MAX_TRIES
                self._disconnect()
                if again:
                    continue
                self._refuse(batch, error)
            else:
                for job, outcome in zip(batch, outcomes, strict=True):
                    outcome.tell(job.future)
            return

    def _may_run_again(self, error: Exception) -> bool:
        """Whether nothing was committed and another try makes sense at once."""
        word = connections.problem(error)
        # A connection that was lost while it was idle is found out with its next statement.
        return word == CONFLICT or (word == UNREACHABLE and self._connection is not None)

    def _refuse(self, batch: list[_Job], error: Exception) -> None:
        cause = error.__cause__ if isinstance(error, _CommitFailed) else error
        word = connections.problem(cause) if cause else None
        if word is None:
            log.error("a write failed", exc_info=error)
        else:
            log.warning("a write failed: the database is %s", word)
        for job in batch:
            refusal = connections.unavailable(word) if word else error
            job.future.set_exception(refusal)

    def _transact(self, batch: list[_Job]) -> list[_Outcome]:
        connection = self._connected()
        durable = any(job.durable for job in batch)
        if connection.dialect.name == "sqlite" and durable != self._durable:
            level = connections.SYNC_EACH_COMMIT if durable else 1
            _raw(connection).execute(f"PRAGMA synchronous = {level}")
            self._durable = durable
        transaction = connection.begin()
        try:
            if connection.dialect.name == "postgresql" and not durable:
                _raw(connection).execute("SET LOCAL synchronous_commit TO off")
            outcomes = [_run(connection, job) for job in batch]
        except BaseException:
            transaction.rollback()
            raise
        try:
            transaction.commit()
        except Exception as error:
            raise _CommitFailed from error
        return outcomes

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._writing.connect()
            self._durable = True
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            _discard(self._connection)
            self._connection = None

    # The readers' threads

    def _read(self, f: Callable[[Connection], T]) -> T:
        while True:
            connection: Connection | None = getattr(self._local, "connection", None)
            try:
                if connection is None:
                    return self._read_on(self._new_reader(), f)
                return self._read_on(connection, f)
            except Exception as error:
                word = connections.problem(error)
                if word is None:
                    raise
                self._forget_reader()
                if word != UNREACHABLE or connection is None:
                    raise connections.unavailable(word) from error
                # The connection was lost while it was idle: once more with a new one.

    def _read_on(self, connection: Connection, f: Callable[[Connection], T]) -> T:
        with connection.begin():
            return f(connection)

    def _new_reader(self) -> Connection:
        connection = self._reading.connect()
        self._local.connection = connection
        with self._gate:
            self._reader_connections.append(connection)
        return connection

    def _forget_reader(self) -> None:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            return
        self._local.connection = None
        with self._gate:
            self._reader_connections.remove(connection)
        _discard(connection)


class _CommitFailed(Exception):
    """COMMIT itself failed: whether it took place is not known."""


def _run(connection: Connection, job: _Job) -> _Outcome:
    """Run one function in a savepoint. Raises only what concerns the whole batch."""
    raw = _raw(connection)
    # Not `begin_nested`: it costs more than the statements inside.
    raw.execute("SAVEPOINT job")
    try:
        outcome = _Outcome(value=job.run(connection))
    except Exception as error:
        if connections.problem(error) is not None:
            raise
        raw.execute("ROLLBACK TO SAVEPOINT job")
        outcome = _Outcome(error=error)
    raw.execute("RELEASE SAVEPOINT job")
    return outcome


def _raw(connection: Connection) -> Any:
    """The driver's connection; sqlite3's and psycopg's both have `execute`."""
    return connection.connection.driver_connection


def _discard(connection: Connection) -> None:
    connection.invalidate()
    connection.close()
