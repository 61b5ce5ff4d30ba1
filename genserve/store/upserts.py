"""INSERT … ON CONFLICT, which SQLAlchemy spells once per database."""

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")


def per_database(build: Callable[[Callable[..., Any]], T]) -> dict[str, T]:
    """A statement for each database, by the dialect's name; `build` is given its `insert`."""
    return {"sqlite": build(sqlite.insert), "postgresql": build(postgresql.insert)}
