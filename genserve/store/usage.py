"""What each owner used, by day (UTC): for bills and for the operator."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from genserve.store.schema import usage
from genserve.store.upserts import per_database


@dataclass(frozen=True, slots=True)
class DayOfUse:
    """One owner's day. `pixel_steps`: pixels drawn × steps, over all pictures."""

    owner: str
    day: str
    tasks: int
    images: int
    pixel_steps: float
    money: float


def _add(insert: Callable[..., Any]) -> Any:
    new = insert(usage)
    return new.on_conflict_do_update(
        index_elements=[usage.c.owner, usage.c.day],
        set_={
            name: usage.c[name] + new.excluded[name]
            for name in ("tasks", "images", "pixel_steps", "money")
        },
    )


_ADD = per_database(_add)


def record(
    conn: Connection,
    owner: str,
    *,
    now: float,
    images: int,
    pixel_steps: float,
    money: float = 0.0,
) -> None:
    """Count one finished task."""
    row = {
        "owner": owner,
        "day": _day(now),
        "tasks": 1,
        "images": images,
        "pixel_steps": pixel_steps,
        "money": money,
    }
    conn.execute(_ADD[conn.dialect.name], row)


def of_owner(conn: Connection, owner: str, *, since: float) -> list[DayOfUse]:
    """An owner's days of use from the day of `since` on, oldest first."""
    rows = conn.execute(
        select(usage)
        .where(usage.c.owner == owner, usage.c.day >= _day(since))
        .order_by(usage.c.day)
    )
    return [DayOfUse(**row._mapping) for row in rows]


def _day(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).date().isoformat()
