"""One server for one database.

The queue's dispatcher keeps in memory which worker has which task, so two servers on one database
would take each other's tasks away. The data folder's lock refuses a second server on the same
folder; this refuses one with another folder that names the same PostgreSQL database.
"""

import sqlalchemy as sa
from sqlalchemy import Connection, text

from genserve.errors import DatabaseInUse, StoreUnavailable
from genserve.store import connections

LOCK = 0x67656E73
"""PostgreSQL's advisory locks have numbers; this one is "gens" in ASCII."""
CONNECT_TIMEOUT_S = 10.0


class OnlyServer:
    """Holds the database for this server until it is closed, or its process ends."""

    def __init__(self, connection: Connection | None) -> None:
        self._connection = connection

    @classmethod
    def open(cls, url: str) -> "OnlyServer":
        """Raises `DatabaseInUse` when another server holds it, and `StoreUnavailable`.

        A SQLite database lies in the data folder, whose own lock is enough.
        """
        parsed = connections.parse(url)
        if parsed.get_backend_name() == "sqlite":
            return cls(None)
        engine = connections.engine(parsed, busy_timeout_s=CONNECT_TIMEOUT_S, query_only=False)
        try:
            connection = engine.connect()
        except sa.exc.OperationalError:
            raise StoreUnavailable(problem="unreachable", retry_after_s=30) from None
        # One lock for each schema: the tables lie in the first of the search path.
        take = text("SELECT pg_try_advisory_lock(:lock, hashtext(current_schema()))")
        held = connection.execute(take, {"lock": LOCK})
        if not held.scalar_one():
            connection.close()
            raise DatabaseInUse(database=parsed.database or "")
        connection.commit()  # the lock is the session's; no transaction stays open
        return cls(connection)

    def close(self) -> None:
        """Let another server have it."""
        if self._connection is not None:
            self._connection.close()
