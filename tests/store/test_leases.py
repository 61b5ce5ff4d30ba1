"""One leads, the others wait until its lease has run out."""

from genserve.store import leases
from genserve.store.database import Database
from tests.store.building import NOW, write


def lead(database: Database, holder: str, at: float, name: str = "office") -> int | None:
    return write(database, leases.lead, name, holder, ttl_s=10.0, now=NOW + at)


def test_the_first_leads_and_renews(database: Database) -> None:
    assert [lead(database, "a", at) for at in (0, 5, 12, 100)] == [1, 1, 1, 1]


def test_another_leads_when_the_lease_has_run_out(database: Database) -> None:
    assert lead(database, "a", 0) == 1
    assert lead(database, "b", 9.9) is None
    assert lead(database, "b", 10) == 2
    assert lead(database, "a", 11) is None
    assert lead(database, "a", 30) == 3


def test_who_is_known_to_be_alone_need_not_wait(database: Database) -> None:
    assert lead(database, "a", 0) == 1
    taken = write(database, leases.lead, "office", "b", ttl_s=10.0, now=NOW, alone=True)
    assert taken == 2
    assert lead(database, "a", 1) is None


def test_offices_are_separate(database: Database) -> None:
    assert lead(database, "a", 0) == 1
    assert lead(database, "b", 0, name="other") == 1
