"""Use is summed up by owner and day."""

from genserve.store import usage
from genserve.store.database import Database
from tests.store.building import NOW, read, write

DAY_S = 86_400


def test_days_add_up(database: Database) -> None:
    for day in (0, 0, 1):
        at = NOW + day * DAY_S
        write(database, usage.record, "ann", now=at, images=2, pixel_steps=10.0, money=0.5)
    write(database, usage.record, "bob", now=NOW, images=1, pixel_steps=1.0)
    days = read(database, usage.of_owner, "ann", since=NOW)
    assert [(d.day, d.tasks, d.images, d.pixel_steps, d.money) for d in days] == [
        ("1970-01-12", 2, 4, 20.0, 1.0),
        ("1970-01-13", 1, 2, 10.0, 0.5),
    ]
    assert len(read(database, usage.of_owner, "ann", since=NOW + DAY_S)) == 1
