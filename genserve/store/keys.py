"""The rows of API keys and of the server's own secrets. All functions run inside a transaction.

A key's plaintext never gets here: a row holds its digest, by which it is found, and a ciphertext
under the master key, by which the digest could be made anew.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, Table, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from genserve.domain.api_key import alias_id
from genserve.domain.caller import KeyRecord, Permission
from genserve.errors import LookupSecretLost
from genserve.store.schema import keys, owners, secrets
from genserve.store.secrets import MasterKeys

ROOT = "root"
"""The name of the one row in `secrets`."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to be stored: its record and its ciphertext."""

    record: KeyRecord
    ciphertext: bytes


def all_records(conn: Connection) -> list[KeyRecord]:
    """Every stored key, oldest first."""
    rows = conn.execute(select(keys).order_by(keys.c.created_at, keys.c.digest))
    return [_record(row) for row in rows]


def insert_key(conn: Connection, key: NewKey) -> None:
    """Store a key and its owner; a key that another server has just stored stays as it is."""
    record = key.record
    created_at = record.created_at.timestamp()
    add_owner(conn, record.owner, created_at)
    row = {
        "digest": record.digest,
        "id": record.id,
        "ciphertext": key.ciphertext,
        "created_at": created_at,
        "expires_at": record.expires_at.timestamp() if record.expires_at else None,
        **_editable(record),
    }
    _insert_new(conn, keys, row)


def update_key(conn: Connection, record: KeyRecord) -> None:
    """Store what a declaration may change: name, owner, permissions, source, priority floor."""
    add_owner(conn, record.owner, record.created_at.timestamp())
    conn.execute(update(keys).where(keys.c.digest == record.digest).values(**_editable(record)))


def delete_keys(conn: Connection, digests: Iterable[str]) -> None:
    """Forget keys at once; their owners and tasks stay."""
    for digest in digests:
        conn.execute(delete(keys).where(keys.c.digest == digest))


def mark_used(conn: Connection, used: Mapping[str, float]) -> None:
    """Store when keys were last used: digest → UTC seconds."""
    statement = (
        update(keys).where(keys.c.digest == bindparam("key")).values(last_used_at=bindparam("at"))
    )
    if used:
        conn.execute(statement, [{"key": digest, "at": at} for digest, at in used.items()])


def add_owner(conn: Connection, owner: str, now: float) -> None:
    """Make sure that an owner exists."""
    _insert_new(conn, owners, {"id": owner, "created_at": now})


def ciphertexts(conn: Connection) -> list[bytes]:
    """Everything that is encrypted under the master key."""
    rows = [*conn.execute(select(secrets.c.ciphertext)), *conn.execute(select(keys.c.ciphertext))]
    return [bytes(row.ciphertext) for row in rows]


def root_secret(conn: Connection) -> bytes | None:
    """The root secret's ciphertext, if there is one."""
    row = conn.execute(select(secrets.c.ciphertext).where(secrets.c.name == ROOT)).one_or_none()
    return None if row is None else bytes(row.ciphertext)


def add_root_secret(conn: Connection, ciphertext: bytes, now: float) -> bytes:
    """Store the root secret unless another server was first; returns the one that is stored.

    Raises `LookupSecretLost` when there are keys already: they could never be found again.
    """
    # In this order: another server that starts just now stores its root secret before its keys.
    has_keys = conn.execute(select(keys.c.digest).limit(1)).first() is not None
    first = root_secret(conn)
    if first is not None:
        return first
    if has_keys:
        raise LookupSecretLost
    _insert_new(conn, secrets, {"name": ROOT, "ciphertext": ciphertext, "created_at": now})
    stored = select(secrets.c.ciphertext).where(secrets.c.name == ROOT)
    return bytes(conn.execute(stored).scalar_one())


def rotate_secrets(conn: Connection, masters: MasterKeys) -> tuple[int, int]:
    """Re-encrypt the server's own secrets under the first master key.

    Returns how many there are and how many changed.
    """
    rows = conn.execute(select(secrets)).all()
    old = [row for row in rows if not masters.is_current(bytes(row.ciphertext))]
    for row in old:
        token = masters.rotate(bytes(row.ciphertext))
        conn.execute(update(secrets).where(secrets.c.name == row.name).values(ciphertext=token))
    return len(rows), len(old)


def rotate_batch(
    conn: Connection, masters: MasterKeys, after: str, limit: int
) -> tuple[int, int, str | None]:
    """Re-encrypt the next `limit` keys after digest `after` under the first master key.

    Returns how many were looked at, how many changed, and the last digest: None at the end.
    """
    rows = conn.execute(
        select(keys.c.digest, keys.c.ciphertext)
        .where(keys.c.digest > after)
        .order_by(keys.c.digest)
        .limit(limit)
    ).all()
    old = [row for row in rows if not masters.is_current(bytes(row.ciphertext))]
    for row in old:
        token = masters.rotate(bytes(row.ciphertext))
        conn.execute(update(keys).where(keys.c.digest == row.digest).values(ciphertext=token))
    return len(rows), len(old), rows[-1].digest if len(rows) == limit else None


def _insert_new(conn: Connection, table: Table, values: dict[str, Any]) -> None:
    dialect = postgresql if conn.dialect.name == "postgresql" else sqlite
    conn.execute(dialect.insert(table).values(values).on_conflict_do_nothing())


def _editable(record: KeyRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "owner": record.owner,
        "permissions": ",".join(sorted(record.permissions)),
        "source": record.source,
        "priority_floor": record.priority_floor,
    }


def _record(row: Row[Any]) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        alias_id=alias_id(row.digest),
        digest=row.digest,
        name=row.name,
        owner=row.owner,
        permissions=frozenset(Permission(word) for word in row.permissions.split(",")),
        source=row.source,
        created_at=_utc(row.created_at),
        expires_at=None if row.expires_at is None else _utc(row.expires_at),
        last_used_at=None if row.last_used_at is None else _utc(row.last_used_at),
        priority_floor=row.priority_floor,
    )


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
