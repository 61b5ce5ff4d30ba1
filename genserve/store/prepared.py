"""Statements of the hot path: built by SQLAlchemy, run by the driver.

Running one the usual way costs several times what the database itself needs for it, and accepting
a task must be cheap enough for thousands a second (`genserve bench queue`).
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, UpdateBase


class Prepared:
    """A statement that is compiled once per database. Its types must need no conversion."""

    def __init__(self, statement: UpdateBase) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[str, dict[str, Any], list[str] | None]] = {}

    def run(self, conn: Connection, values: Mapping[str, Any]) -> Any:
        """Execute it within the connection's transaction; returns the driver's cursor.

        What it returns must be fetched before the next statement.
        """
        sql, defaults, positions = self._compiled.get(conn.dialect.name) or self._compile(conn)
        merged = {**defaults, **values}
        raw: Any = conn.connection.driver_connection
        return raw.execute(sql, merged if positions is None else [merged[n] for n in positions])

    def _compile(self, conn: Connection) -> tuple[str, dict[str, Any], list[str] | None]:
        compiled: Any = self._statement.compile(dialect=conn.dialect)
        made = (str(compiled), dict(compiled.params), compiled.positiontup)
        self._compiled[conn.dialect.name] = made
        return made
