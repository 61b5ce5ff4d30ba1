"""What the migrations make is what schema.py says, on both databases."""

import re
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, MetaData, inspect, text

from genserve.errors import StartupError
from genserve.store import connections, migration
from genserve.store.database import Database
from genserve.store.schema import metadata


def differences(conn: Connection) -> list[object]:
    options = {"compare_type": True, "compare_server_default": True}
    context = MigrationContext.configure(conn, opts=options)
    return list(compare_metadata(context, metadata))


def test_the_migrations_make_what_the_schema_says(database: Database) -> None:
    assert database.read(differences).result(60) == []


def definitions(conn: Connection) -> list[str]:
    """Everything that was made, in the database's own words, in one order of columns."""
    if conn.dialect.name == "sqlite":
        query = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version'"
        found = [str(sql) for sql in conn.execute(text(query)).scalars()]
        return sorted(re.sub(r"\s+", " ", sql).replace('"', "") for sql in found)
    query = "SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema()"
    indexes = [str(sql) for sql in conn.execute(text(query)).scalars()]
    query = (
        "SELECT conrelid::regclass::text || ' ' || pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = current_schema()::regnamespace"
    )
    constraints = [str(sql) for sql in conn.execute(text(query)).scalars()]
    made = [line for line in indexes + constraints if "alembic_version" not in line]
    schema = str(conn.execute(text("SELECT current_schema()")).scalar_one())
    return sorted(line.replace(f"{schema}.", "") for line in made)


def test_indexes_and_foreign_keys_are_the_same_too(database: Database) -> None:
    """`compare_metadata` does not look at conditions of indexes, nor at ON DELETE."""

    def make_anew(conn: Connection) -> list[str]:
        migrated = definitions(conn)
        found = MetaData()
        found.reflect(conn)
        found.drop_all(conn)
        metadata.create_all(conn)
        assert definitions(conn) == migrated
        return migrated

    assert len(database.write(make_anew).result(60)) > 20


def test_opening_again_changes_nothing(database_url: str) -> None:
    for _ in range(2):
        database = Database.open(database_url)
        tables = database.read(lambda conn: set(inspect(conn).get_table_names())).result(60)
        version = database.read(migration.version).result(60)
        database.close()
        assert tables == {*metadata.tables, "alembic_version"}
        assert version == migration.newest()


def test_a_database_without_tables_is_refused_when_it_must_not_be_changed(
    database_url: str,
) -> None:
    with pytest.raises(StartupError, match="older than this program"):
        Database.open(database_url, migrate=False)
    Database.open(database_url).close()
    Database.open(database_url, migrate=False).close()


@pytest.mark.parametrize("migrate", [True, False])
def test_a_database_of_a_newer_program_is_refused_and_kept(
    database_url: str, migrate: bool
) -> None:
    database = Database.open(database_url)
    newer = text("UPDATE alembic_version SET version_num = '9999'")
    database.write(lambda conn: conn.execute(newer).rowcount).result(60)
    database.close()
    with pytest.raises(StartupError, match="newer than this program"):
        Database.open(database_url, migrate=migrate)


def test_a_migration_that_fails_leaves_the_old_tables(database_url: str) -> None:
    url = connections.parse(database_url)
    engine = connections.engine(url, busy_timeout_s=5, query_only=False)
    with engine.connect() as conn:
        with conn.begin():
            conn.execute(text("CREATE TABLE leases (mine INTEGER)"))
        with pytest.raises(Exception, match="already exists"):
            migration.to_newest(conn)
        conn.rollback()
        assert set(inspect(conn).get_table_names()) == {"leases"}


def test_the_scripts_are_part_of_the_package() -> None:
    assert migration.SCRIPTS.is_relative_to(Path(migration.__file__).parent)
    assert (migration.SCRIPTS / "env.py").is_file()
