"""Which of several servers leads: one row per office, taken over when it is not renewed."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, bindparam, case

from genserve.store.schema import leases
from genserve.store.upserts import per_database

DISPATCHER = "dispatcher"
"""The office of giving out tasks: `tasks.claim` refuses epochs that are over."""


def _take(insert: Callable[..., Any]) -> Any:
    new = insert(leases)
    same = leases.c.holder == new.excluded.holder
    return new.on_conflict_do_update(
        index_elements=[leases.c.name],
        set_={
            "holder": new.excluded.holder,
            "epoch": case((same, leases.c.epoch), else_=leases.c.epoch + 1),
            "expires_at": new.excluded.expires_at,
        },
        where=same | (leases.c.expires_at <= bindparam("b_now")),
    ).returning(leases.c.epoch)


_TAKE = per_database(_take)


def lead(
    conn: Connection, name: str, holder: str, *, ttl_s: float, now: float, alone: bool = False
) -> int | None:
    """Take or renew an office for `ttl_s` seconds.

    Returns the epoch, which grows with each change of holder, or None while somebody else's
    lease runs. `alone`: the caller knows that the former holder is gone (it holds the data
    folder's lock), so the lease need not run out.
    """
    row = {
        "name": name,
        "holder": holder,
        "epoch": 1,
        "expires_at": now + ttl_s,
        "b_now": float("inf") if alone else now,
    }
    epoch: int | None = conn.execute(_TAKE[conn.dialect.name], row).scalar_one_or_none()
    return epoch
