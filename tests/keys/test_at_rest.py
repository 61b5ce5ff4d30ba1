"""What lies on the disk: no plaintext anywhere, and nothing touched when the key is wrong."""

import asyncio
import hashlib
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from genserve.config import DEFAULT_API_KEY
from genserve.domain.caller import Permission
from genserve.errors import (
    BadMasterKey,
    FileForbidden,
    LookupSecretLost,
    MissingMasterKey,
    StartupError,
    WrongMasterKey,
)
from genserve.store.secrets import new_master_key
from tests.keys.conftest import House, declared


def at_rest(house: House) -> dict[str, str]:
    """Stop; every file of the data folder by the digest of its bytes."""
    house.close()
    folder = house.config.data_dir
    if house.url.startswith("sqlite"):
        # Whatever was written last may still lie in the log: bring it into the file first.
        with closing(sqlite3.connect(folder / "genserve.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


def dump(house: House) -> bytes:
    """Every value of every row of every table."""
    database = house.database()

    def rows(conn) -> list[str]:
        tables = [name for name in ("owners", "keys", "secrets")]
        return [repr(row) for t in tables for row in conn.execute(text(f"SELECT * FROM {t}"))]

    return "\n".join(database.read(rows).result()).encode()


async def test_no_key_lies_on_the_disk_in_plain_text(house: House):
    mine = [f"declared-key-number-{number}-{os.urandom(4).hex()}" for number in range(5)]
    house.declare(*(declared(key, variable=f"API_KEY_{n}") for n, key in enumerate(mine)))
    ring = await house.open()
    made = await asyncio.gather(
        *(ring.create(f"user {n}", [Permission.GENERATION]) for n in range(200))
    )
    issued = [key for key, _ in made]
    for key in [*issued, *mine]:
        ring.resolve(key)
    await ring.flush_last_used()
    await asyncio.gather(*(ring.delete_key(key) for key in issued[:50]))
    await ring.reload()
    secrets = [key.encode() for key in [*issued, *mine]]
    randoms = [key[3:46].encode() for key in issued]
    content = {"rows": dump(house)}
    content |= {str(path): path.read_bytes() for path in folder_files(house)}
    if house.url.startswith("sqlite"):
        names = {Path(name).name for name in content}
        assert {"genserve.db", "genserve.db-wal", "genserve.db-shm", "encryption_key"} <= names
    for place, data in content.items():
        assert not any(secret in data for secret in [*secrets, *randoms]), place
    shown = repr([ring, ring.all(), ring.__dict__, house.config]).encode()
    assert not any(secret in shown for secret in [*secrets, *randoms])


def folder_files(house: House) -> list[Path]:
    return [path for path in house.config.data_dir.rglob("*") if path.is_file()]


async def refused(house: House, error: type[StartupError]) -> None:
    """A start is refused, and leaves every byte as it was."""
    rows, before = dump(house), at_rest(house)
    with pytest.raises(error):
        await house.open()
    assert at_rest(house) == before
    assert dump(house) == rows


async def test_a_wrong_configured_key_touches_nothing(house: House):
    house.configure(encryption_key=new_master_key())
    ring = await house.open()
    key, _ = await ring.create("alice", [Permission.ALL])
    right = house.config
    house.declare(declared("a-key-that-would-be-added"))
    house.configure(encryption_key=new_master_key())
    await refused(house, WrongMasterKey)
    house.configure(encryption_key="too short")
    await refused(house, BadMasterKey)
    house.configure(encryption_key=None)
    await refused(house, MissingMasterKey)
    house.config = right
    assert (await house.reopened()).resolve(key).name == "alice"


async def test_a_lost_or_changed_key_file_touches_nothing(house: House):
    ring = await house.open()
    key, _ = await ring.create("alice", [Permission.ALL])
    file = house.config.secrets_dir / "encryption_key"
    right = file.read_bytes()
    file.write_text(new_master_key())
    await refused(house, WrongMasterKey)
    file.write_text("damaged")
    await refused(house, BadMasterKey)
    shutil.rmtree(house.config.secrets_dir)
    await refused(house, MissingMasterKey)
    assert not house.config.secrets_dir.exists()
    file.parent.mkdir()
    file.mkdir()
    with pytest.raises(FileForbidden):
        await house.reopened()
    file.rmdir()
    file.write_bytes(right)
    assert (await house.reopened()).resolve(key).name == "alice"


async def test_even_without_keys_the_root_secret_is_protected(house: House):
    await house.open()
    shutil.rmtree(house.config.secrets_dir)
    await refused(house, MissingMasterKey)


async def test_keys_without_their_root_secret_are_not_silently_lost(house: House):
    ring = await house.open()
    await ring.create("alice", [Permission.ALL])
    house.databases[0].write(lambda conn: conn.execute(text("DELETE FROM secrets"))).result()
    with pytest.raises(LookupSecretLost):
        await house.reopened()


async def test_one_damaged_ciphertext_is_noticed(house: House):
    ring = await house.open()
    await ring.create("alice", [Permission.ALL])
    await ring.create("bob", [Permission.ALL])
    house.databases[0].write(
        lambda conn: conn.execute(
            text("UPDATE keys SET ciphertext = :damaged WHERE name = 'bob'"), {"damaged": b"gAAA"}
        )
    ).result()
    with pytest.raises(WrongMasterKey):
        await house.reopened()


async def test_a_start_that_changes_nothing_writes_nothing(house: House):
    house.declare(declared("a-declared-key"))
    ring = await house.open()
    await ring.create("alice", [Permission.ALL])
    rows, before = dump(house), at_rest(house)
    ring = await house.open()
    await ring.reload()
    assert dump(house) == rows
    assert at_rest(house) == before


async def test_two_servers_on_one_database_share_its_keys(house: House):
    house.configure(encryption_key=new_master_key())
    house.declare(declared("a-declared-key"))
    one, other = await asyncio.gather(house.open(), house.open())
    key, _ = await one.create("alice", [Permission.ALL])
    assert (await other.reload()).added == [one.resolve(key).id]
    assert other.resolve(key) == one.resolve(key)
    assert other.sign_image("a.png", 1) == one.sign_image("a.png", 1)
    assert DEFAULT_API_KEY not in repr(dump(house))
