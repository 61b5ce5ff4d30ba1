"""A key ring on each real database, with a clock that tests move."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection

from genserve.config import Config, DeclaredKey, Keys
from genserve.core.keyring import KeyRing
from genserve.domain.api_key import alias_id, key_id
from genserve.domain.caller import KeyRecord, Permission
from genserve.store import keys
from genserve.store.database import Database
from genserve.store.keys import NewKey
from genserve.store.secrets import MasterKeys, RootSecret

NOW = 1_800_000_000.0
DAY_S = 86_400.0


@dataclass
class Clock:
    """UTC seconds that pass only when a test says so."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    """What a server would have open, able to be closed and opened again."""

    url: str
    config: Config
    clock: Clock = field(default_factory=Clock)
    databases: list[Database] = field(default_factory=list)

    def declare(self, *declared: DeclaredKey) -> None:
        """What the next start or reload finds declared."""
        self.configure(declared=declared)

    def configure(self, **keys: object) -> None:
        """Change what the configuration says about keys."""
        changed = Keys.model_validate({**dict(self.config.keys), **keys})
        self.config = self.config.model_copy(update={"keys": changed})

    def database(self) -> Database:
        """An open database; closed at the end of the test at the latest."""
        self.databases.append(Database.open(self.url))
        return self.databases[-1]

    async def open(self) -> KeyRing:
        """Start."""
        folders = (Path.cwd(), self.config.data_dir)
        return await KeyRing.open(
            self.database(), self.config, self.clock, lambda: self.config, import_from=folders
        )

    def close(self) -> None:
        """Stop; only files and the database remain."""
        while self.databases:
            self.databases.pop().close()

    def plant(self, *planted: str, name: str = "planted", master: str | None = None) -> None:
        """Store keys of any text as if they had been issued, in one transaction.

        `master`: the master keys to encrypt them with, instead of the configured ones.
        """
        database = self.database()
        configured = self.config.keys.encryption_key
        masters = MasterKeys.open(
            master or (configured.get_secret_value() if configured else None),
            self.config.secrets_dir,
            ciphertext_exists=True,
        )
        stored = database.read(keys.root_secret).result()
        assert stored is not None
        root = RootSecret(masters.decrypt(stored))

        def insert(conn: Connection) -> None:
            for key in planted:
                digest = root.digest(key)
                record = KeyRecord(
                    id=key_id(key, digest),
                    alias_id=alias_id(digest),
                    digest=digest,
                    name=name,
                    owner="planter",
                    permissions=frozenset({Permission.GENERATION}),
                    source="issued",
                    created_at=datetime.fromtimestamp(NOW, UTC),
                )
                keys.insert_key(conn, NewKey(record, masters.encrypt(key)))

        database.write(insert).result()

    async def reopened(self) -> KeyRing:
        """Stop and start."""
        self.close()
        return await self.open()


def declared(
    key: str, name: str = "developer", variable: str = "API_KEY_1", **more: object
) -> DeclaredKey:
    """A declared key as the configuration gives it."""
    given = {"key": key, "name": name, "permissions": ["generation"], "variable": variable}
    return DeclaredKey.model_validate({**given, **more})


@pytest.fixture(autouse=True)
def working_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working folder of the test's own: old key files are looked for in it."""
    folder = tmp_path_factory.mktemp("working")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
async def house(database_url: str, data_dir: Path) -> AsyncIterator[House]:
    house = House(database_url, Config(data_dir=data_dir))
    yield house
    house.close()


@pytest.fixture
async def local_house(sqlite_url: str, data_dir: Path) -> AsyncIterator[House]:
    """On SQLite alone, for what does not depend on the database."""
    house = House(sqlite_url, Config(data_dir=data_dir))
    yield house
    house.close()


@pytest.fixture
async def ring(local_house: House) -> KeyRing:
    return await local_house.open()


@pytest.fixture
def sqlite_url(data_dir: Path) -> str:
    """The database where a server has it: in its data folder."""
    return f"sqlite:///{data_dir / 'genserve.db'}"
