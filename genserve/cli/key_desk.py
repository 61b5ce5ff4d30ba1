"""Where the `keys` commands work: in the data folder, or through the server that holds it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from genserve import config_sources
from genserve.cli.client import Client
from genserve.cli.options import overrides, server_url
from genserve.config import Config
from genserve.core.key_vault import RotationReport
from genserve.core.keyring import KeyRing
from genserve.domain.caller import KeyRecord, Permission
from genserve.errors import CommandFailed, ConfigError, DataFolderInUse
from genserve.store.database import Database
from genserve.store.datafolder import DataFolder

T = TypeVar("T")
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Wish:
    """A key to be issued."""

    name: str
    permissions: list[str]
    owner: str | None
    expires_at: datetime | None


class KeyDesk(Protocol):
    """What the commands need; answers are as the API's, ready to be shown."""

    def create(self, wish: Wish) -> dict[str, Any]: ...
    def list(self) -> Rows: ...
    def revoke(self, key_id: str) -> None: ...
    def rotate_master(self, tell: Callable[[int], None]) -> RotationReport: ...


@contextmanager
def open_desk(
    config_file: Path | None, data_dir: Path | None, url: str | None, api_key: str | None
) -> Iterator[KeyDesk]:
    """The data folder when nobody holds it and no `url` names a server; otherwise the server."""

    def reread() -> Config:
        return config_sources.load(config_file, overrides(data_dir=data_dir))

    config = reread()
    folder = None
    if url is None:
        try:
            folder = DataFolder.open(config.data_dir)
        except DataFolderInUse:
            folder = None
    if folder is None:
        with Client(server_url(config, url), api_key) as client:
            yield _Server(client)
        return
    try:
        yield _DataFolder(config, reread)
    finally:
        folder.close()


class _Server:
    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, wish: Wish) -> dict[str, Any]:
        body = {
            "name": wish.name,
            "permissions": ",".join(wish.permissions),
            "owner": wish.owner,
            "expires_at": wish.expires_at.isoformat() if wish.expires_at else None,
        }
        given = {name: value for name, value in body.items() if value is not None}
        answer = self._client.post("/auth/generate-key", given)
        return {name: value for name, value in answer.items() if name != "success"}

    def list(self) -> Rows:
        rows: Rows = self._client.get("/auth/keys")["keys"]
        return rows

    def revoke(self, key_id: str) -> None:
        self._client.post("/auth/delete-key-by-id", {"key_id": key_id})

    def rotate_master(self, tell: Callable[[int], None]) -> RotationReport:
        raise CommandFailed(problem="stop the server first: it holds the keys in memory")


class _DataFolder:
    def __init__(self, config: Config, reread: Callable[[], Config]) -> None:
        self._config = config
        self._reread = reread

    def create(self, wish: Wish) -> dict[str, Any]:
        permissions = [_permission(word) for word in wish.permissions]
        key, record = self._with_ring(
            lambda ring: ring.create(
                wish.name, permissions, owner=wish.owner, expires_at=wish.expires_at
            )
        )
        return {"api_key": key, **_row(record)}

    def list(self) -> Rows:
        async def everything(ring: KeyRing) -> Rows:
            return [_row(record) for record in ring.all()]

        return self._with_ring(everything)

    def revoke(self, key_id: str) -> None:
        self._with_ring(lambda ring: ring.delete_id(key_id))

    def rotate_master(self, tell: Callable[[int], None]) -> RotationReport:
        return self._with_ring(lambda ring: ring.rotate_master(on_batch=tell))

    def _with_ring(self, action: Callable[[KeyRing], Awaitable[T]]) -> T:
        async def opened() -> T:
            folders = (Path.cwd(), self._config.data_dir)
            ring = await KeyRing.open(
                db, self._config, time.time, self._reread, import_from=folders
            )
            return await action(ring)

        db = Database.open(self._config.database_url)
        try:
            return asyncio.run(opened())
        finally:
            db.close()


def _permission(word: str) -> Permission:
    try:
        return Permission(word)
    except ValueError:
        known = ", ".join(Permission)
        raise ConfigError(problem=f"--permissions: {word} is none of {known}") from None


def _row(record: KeyRecord) -> dict[str, Any]:
    """A key as `GET /auth/keys` shows it."""
    return {
        "key_id": record.id,
        "alias_id": record.alias_id,
        "name": record.name,
        "permissions": sorted(record.permissions),
        "owner": record.owner,
        "source": record.source,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "last_used_at": record.last_used_at,
    }
