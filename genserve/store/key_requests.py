"""The same Idempotency-Key leads to one API key: which request has issued which.

Nothing here is the key: a row holds its digest, and the key's own row the ciphertext.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select

from genserve.errors import IdempotencyMismatch
from genserve.store.intake import IdempotencyClaim
from genserve.store.keys import NewKey, insert_key
from genserve.store.schema import key_requests, keys
from genserve.store.upserts import per_database


@dataclass(frozen=True, slots=True)
class IssuedBefore:
    """The key that an earlier request has issued; `ciphertext` None: it was deleted since."""

    digest: str
    ciphertext: bytes | None


def _claim(insert_into: Callable[..., Any]) -> Any:
    new = insert_into(key_requests)
    return new.on_conflict_do_nothing().returning(key_requests.c.issued)


_CLAIM = per_database(_claim)
_FORGET = delete(key_requests).where(key_requests.c.created_at < bindparam("expired"))
_CLAIMED = (
    select(key_requests.c.fingerprint, key_requests.c.issued, keys.c.ciphertext)
    .outerjoin_from(key_requests, keys, key_requests.c.issued == keys.c.digest)
    .where(
        key_requests.c.key_digest == bindparam("key_digest"),
        key_requests.c.value == bindparam("value"),
    )
)


def issue_once(
    conn: Connection, key: NewKey, claim: IdempotencyClaim, *, now: float, ttl_s: float
) -> IssuedBefore | None:
    """Store a key, or find the one that the same Idempotency-Key has led to before.

    One transaction: no other request ever sees it half done. Of two servers with the same claim one
    waits for the other here. Raises `IdempotencyMismatch`; then nothing is kept.
    """
    conn.execute(_FORGET, {"expired": now - ttl_s})
    row = {
        "key_digest": claim.key_digest,
        "value": claim.value,
        "fingerprint": claim.fingerprint,
        "issued": key.record.digest,
        "created_at": now,
    }
    if conn.execute(_CLAIM[conn.dialect.name], row).scalar_one_or_none() is not None:
        insert_key(conn, key)
        return None
    whose = {"key_digest": claim.key_digest, "value": claim.value}
    earlier = conn.execute(_CLAIMED, whose).one()
    if earlier.fingerprint != claim.fingerprint:
        raise IdempotencyMismatch(key=claim.value)
    held = earlier.ciphertext
    return IssuedBefore(earlier.issued, None if held is None else bytes(held))
