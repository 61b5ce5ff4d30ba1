"""Stores a new API key, or finds the one that the same Idempotency-Key has led to before."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from genserve.core.key_vault import OpenVault
from genserve.domain.caller import KeyRecord
from genserve.errors import IssuedKeyDeleted
from genserve.store import key_requests, keys
from genserve.store.database import Database
from genserve.store.intake import IdempotencyClaim
from genserve.store.keys import NewKey


@dataclass(frozen=True, slots=True)
class Issued:
    """A new key; `replayed`: it was issued before, for the same Idempotency-Key."""

    key: str = field(repr=False)
    record: KeyRecord
    replayed: bool


async def issue(
    db: Database,
    vault: OpenVault,
    new: Issued,
    claim: IdempotencyClaim | None,
    *,
    known: Mapping[str, KeyRecord],
    now: float,
) -> Issued:
    """Store `new`, or give what `claim` has led to before, decrypted from its own row.

    `known` are the records in use, by digest. Raises `IdempotencyMismatch`, `IssuedKeyDeleted`.
    """
    stored = NewKey(new.record, vault.masters.encrypt(new.key))
    if claim is None:
        await asyncio.wrap_future(db.write(partial(keys.insert_key, key=stored)))
        return new
    ttl_s = vault.config.queue.idempotency_ttl_s
    move = partial(key_requests.issue_once, key=stored, claim=claim, now=now, ttl_s=ttl_s)
    earlier = await asyncio.wrap_future(db.write(move))
    if earlier is None:
        return new
    record = known.get(earlier.digest)
    if earlier.ciphertext is None or record is None:
        raise IssuedKeyDeleted(key=claim.value)
    return Issued(vault.masters.decrypt(earlier.ciphertext), record, replayed=True)
