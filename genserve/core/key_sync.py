"""Brings the stored keys in line with the declared and imported ones, in one transaction."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from genserve.core.key_records import KnownKey, is_declared
from genserve.domain.caller import KeyRecord
from genserve.store import keys
from genserve.store.keys import NewKey


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """What has to be written."""

    add: tuple[KnownKey, ...]
    update: tuple[KeyRecord, ...]
    remove: tuple[KeyRecord, ...]


def changes(
    stored: Mapping[str, KeyRecord],
    declared: Mapping[str, KnownKey],
    imported: Mapping[str, KnownKey],
) -> KeyChanges:
    """Compare by digest. A declaration goes before an import, and takes over an issued key.

    A stored key that is imported again stays as it is: an import that was cut short by a crash is
    simply done once more.
    """
    wanted = {**imported, **declared}
    update = []
    for digest in wanted.keys() & stored.keys():
        old, asked = stored[digest], wanted[digest].record
        if digest not in declared and not is_declared(old):
            continue
        kept = {"created_at": old.created_at, "last_used_at": old.last_used_at}
        new = asked.model_copy(update=kept)
        if new != old:
            update.append(new)
    return KeyChanges(
        add=tuple(wanted[digest] for digest in wanted if digest not in stored),
        update=tuple(update),
        remove=tuple(
            record
            for digest, record in stored.items()
            if is_declared(record) and digest not in wanted
        ),
    )


def sync(
    conn: Connection,
    declared: Mapping[str, KnownKey],
    imported: Mapping[str, KnownKey],
    encrypt: Callable[[str], bytes],
) -> list[KeyRecord]:
    """Apply the changes, if any; returns every key as it is then stored."""
    stored = {record.digest: record for record in keys.all_records(conn)}
    found = changes(stored, declared, imported)
    for known in found.add:
        keys.insert_key(conn, NewKey(known.record, encrypt(known.key)))
    for record in found.update:
        keys.update_key(conn, record)
    keys.delete_keys(conn, [record.digest for record in found.remove])
    return keys.all_records(conn)
