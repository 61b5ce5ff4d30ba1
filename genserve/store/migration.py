"""Brings a database's tables up to date: all steps in one transaction, or none.

The steps are Alembic's, in `migrations/versions`, and shipped with the package. A process that is
killed in the middle leaves the old tables: both databases undo changes of tables, too.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from genserve.errors import StartupError

SCRIPTS = Path(__file__).parent / "migrations"
LOCK = 0x67656E7365727665
"""PostgreSQL's advisory lock while tables change: several servers may start at once."""


def newest() -> str:
    """The version that this program's tables have."""
    head = _scripts().get_current_head()
    assert head is not None, "there is at least one migration"
    return head


def to_newest(connection: Connection) -> None:
    """Run the steps that are missing.

    Raises `StartupError` when the database was made by a newer version of the program.
    """
    with connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        present = version(connection)
        if present == newest():
            return
        _refuse_unknown(present)
        config = Config()
        config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def require_newest(connection: Connection) -> None:
    """Raise `StartupError` unless the tables are as this program needs them."""
    with connection.begin():
        present = version(connection)
    if present != newest():
        _refuse_unknown(present)
        raise StartupError(problem="the database is older than this program; start the server once")


def version(connection: Connection) -> str | None:
    """The version of a database's tables; None when it has none yet."""
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_unknown(present: str | None) -> None:
    known = {script.revision for script in _scripts().walk_revisions()}
    if present is not None and present not in known:
        raise StartupError(problem=f"the database (version {present}) is newer than this program")


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(SCRIPTS))
