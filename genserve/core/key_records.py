"""Makes the records of new keys: issued, declared or imported. Pure but for the random owner."""

import hashlib
import secrets
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import JsonValue

from genserve.config import DEFAULT_API_KEY, DeclaredKey
from genserve.domain.api_key import alias_id, is_mistyped, key_id
from genserve.domain.caller import KeyRecord, Permission
from genserve.errors import ConfigError, ValidationFailed
from genserve.store.legacy_keys import LegacyKey

ISSUED = "issued"
IMPORTED = "imported"

DigestOf = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A record together with the key itself, on the way to being stored encrypted."""

    key: str = field(repr=False)
    record: KeyRecord


def is_declared(record: KeyRecord) -> bool:
    """Whether the key stands in the configuration, and can only be removed there."""
    return record.source not in {ISSUED, IMPORTED}


def new_owner() -> str:
    """An owner of its own for a key that names none."""
    return f"owner_{secrets.token_hex(8)}"


def owner_of(declared: DeclaredKey) -> str:
    """Whom the tasks of a declared key belong to.

    Without a named owner it follows from the key's name, which the API document calls the user's
    name: whoever replaces a key and keeps its name keeps its tasks.
    """
    if declared.owner is not None:
        return declared.owner
    digest = hashlib.sha256(f"declared key {declared.name}".encode()).hexdigest()
    return f"owner_{digest[:16]}"


def issued_record(
    key: str,
    digest: str,
    *,
    name: str,
    permissions: Collection[Permission],
    owner: str | None,
    expires_at: datetime | None,
    priority_floor: int,
    now: datetime,
) -> KeyRecord:
    """The record of an issued key. Raises `ValidationFailed` naming every field that is wrong."""
    right = {
        "name: must have 1 to 200 characters": 1 <= len(name.strip()) <= 200,
        "permissions: must name at least one of generation, readonly, admin, all": permissions,
        "owner: must have 1 to 200 characters": owner is None or 1 <= len(owner.strip()) <= 200,
        "expires_at: must lie in the future, with a time zone": expires_at is None
        or (expires_at.tzinfo is not None and expires_at > now),
        "priority_floor: must be between -100 and 100": -100 <= priority_floor <= 100,
    }
    problems: list[JsonValue] = [problem for problem, is_right in right.items() if not is_right]
    if problems:
        raise ValidationFailed(problems=problems)
    return KeyRecord(
        id=key_id(key, digest),
        alias_id=alias_id(digest),
        digest=digest,
        name=name.strip(),
        owner=new_owner() if owner is None else owner.strip(),
        permissions=frozenset(permissions),
        source=ISSUED,
        created_at=now,
        expires_at=expires_at,
        priority_floor=priority_floor,
    )


def declared_keys(
    declared: Iterable[DeclaredKey], digest_of: DigestOf, now: datetime
) -> dict[str, KnownKey]:
    """The declared keys by digest. Raises `ConfigError` for one that must not be a key."""
    found: dict[str, KnownKey] = {}
    for declaration in declared:
        key, variable = declaration.key.get_secret_value(), declaration.variable
        digest = digest_of(key)
        if key == DEFAULT_API_KEY:
            raise ConfigError(problem=f"{variable} declares the documented key, which anyone knows")
        if is_mistyped(key):
            raise ConfigError(problem=f"{variable}: the last six characters do not fit the others")
        if digest in found:
            other = found[digest].record.source
            raise ConfigError(problem=f"{variable} declares the same key as {other}")
        record = KeyRecord(
            id=key_id(key, digest),
            alias_id=alias_id(digest),
            digest=digest,
            name=declaration.name,
            owner=owner_of(declaration),
            permissions=frozenset(Permission(word) for word in declaration.permissions),
            source=variable,
            created_at=now,
            priority_floor=declaration.priority_floor,
        )
        found[digest] = KnownKey(key, record)
    return found


def imported_keys(
    legacy: Iterable[LegacyKey], digest_of: DigestOf, now: datetime
) -> dict[str, KnownKey]:
    """The keys of old key files by digest; of equal keys, the first."""
    found: dict[str, KnownKey] = {}
    for old in legacy:
        digest = digest_of(old.key)
        record = KeyRecord(
            id=key_id(old.key, digest),
            alias_id=alias_id(digest),
            digest=digest,
            name=old.name,
            owner=new_owner(),
            permissions=old.permissions,
            source=IMPORTED,
            created_at=now,
            expires_at=old.expires_at,
        )
        found.setdefault(digest, KnownKey(old.key, record))
    return found
