"""Declared keys: brought in line at start and by reload; a pure comparison decides."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genserve.config import Config
from genserve.core.key_records import KnownKey, declared_keys, is_declared, owner_of
from genserve.core.key_sync import changes
from genserve.core.keyring import KeyRing
from genserve.domain.caller import KeyRecord, Permission
from genserve.errors import ConfigError, GenServeError, InvalidKey
from genserve.store.secrets import new_master_key
from tests.keys.conftest import NOW, House, declared

ONE, TWO = "abc123def456", "xyz789ghi012-of-more-than-24"


async def test_declared_keys_work_as_declared(local_house: House):
    local_house.declare(
        declared(ONE, "developer", "API_KEY_1", permissions=["generation", "readonly"]),
        declared(TWO, "admin", "keys.declared[0]", permissions=["admin"], priority_floor=-10),
    )
    ring = await local_house.open()
    one, two = ring.resolve(ONE), ring.resolve(TWO)
    assert (one.name, one.source, one.priority_floor) == ("developer", "API_KEY_1", 0)
    assert one.permissions == {"generation", "readonly"}
    assert (two.source, two.priority_floor) == ("keys.declared[0]", -10)
    assert two.is_admin
    assert not ring.default_key_active


async def test_a_start_without_the_declaration_revokes(house: House):
    house.declare(declared(ONE), declared(TWO, variable="API_KEY_2"))
    await house.open()
    house.declare(declared(TWO))
    ring = await house.reopened()
    assert [record.id for record in ring.all()] == [f"{TWO[:8]}-{TWO[-4:]}"]
    with pytest.raises(InvalidKey):
        ring.resolve(ONE)


async def test_reload_adds_revokes_and_updates(house: House):
    house.declare(declared(ONE), declared(TWO, variable="API_KEY_2"))
    ring = await house.open()
    issued, _ = await ring.create("issued", [Permission.ALL])
    kept = ring.resolve(TWO)
    three = "a-third-key-of-this-length"
    house.clock.now = NOW + 5
    house.declare(
        declared(TWO, "renamed", "API_KEY_1", permissions=["all"]), declared(three, "third")
    )
    revoked_id = ring.resolve(ONE).id
    report = await ring.reload()
    assert report.added == [ring.resolve(three).id]
    assert report.revoked == [revoked_id]
    assert report.unchanged == 2
    with pytest.raises(InvalidKey):
        ring.resolve(ONE)
    changed = ring.resolve(TWO)
    assert (changed.name, changed.source, changed.is_admin) == ("renamed", "API_KEY_1", True)
    assert changed.created_at == kept.created_at
    assert ring.resolve(issued).name == "issued"
    again = await ring.reload()
    assert (again.added, again.revoked, again.unchanged) == ([], [], 3)


async def test_a_reload_that_fails_changes_nothing(house: House):
    house.declare(declared(ONE))
    ring = await house.open()
    held = ring.all()
    for problem in (
        {"declared": (declared(TWO), declared(TWO, variable="API_KEY_2"))},
        {"declared": (declared(TWO),), "encryption_key": new_master_key()[:-1]},
    ):
        before = house.config
        house.configure(**problem)
        with pytest.raises(GenServeError):
            await ring.reload()
        house.config = before
        assert ring.all() == held
    assert (await ring.reload()).unchanged == 1


async def test_an_unreadable_configuration_leaves_the_ring_as_it_is(local_house: House):
    def reread() -> Config:
        raise ConfigError(problem="server.port: not a number")

    local_house.declare(declared(ONE))
    ring = await KeyRing.open(local_house.database(), local_house.config, local_house.clock, reread)
    with pytest.raises(ConfigError, match=r"server\.port"):
        await ring.reload()
    assert ring.resolve(ONE).name == "developer"


async def test_declaring_an_issued_key_takes_it_over(house: House):
    ring = await house.open()
    key, issued = await ring.create("alice", [Permission.ALL])
    house.declare(declared(key, owner=issued.owner))
    await ring.reload()
    assert ring.resolve(key).source == "API_KEY_1"
    assert ring.resolve(key).owner == issued.owner
    assert len(ring.all()) == 1
    house.declare()
    assert (await ring.reload()).revoked == [issued.id]


async def test_a_key_that_is_replaced_under_its_name_keeps_its_owner(house: House):
    house.declare(declared(ONE, "developer"))
    ring = await house.open()
    owner = ring.resolve(ONE).owner
    house.declare(declared(TWO, "developer", "API_KEY_9"), declared("another-key", "guest"))
    await ring.reload()
    assert ring.resolve(TWO).owner == owner
    assert ring.resolve("another-key").owner != owner
    house.declare(declared(TWO, "developer", owner="team"))
    await ring.reload()
    assert ring.resolve(TWO).owner == "team"


def test_owners_of_declared_keys_are_stable():
    assert owner_of(declared(ONE, "developer")) == owner_of(declared(TWO, "developer"))
    assert owner_of(declared(ONE, "developer")) == "owner_6d09fd6c58251a87"
    assert owner_of(declared(ONE, owner="team")) == "team"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([declared("genserve-default-key-2024")], "documented key"),
        ([declared("gs_" + "A" * 43 + "000000")], "six characters"),
        ([declared(ONE), declared(ONE, variable="API_KEY_2")], "API_KEY_2 declares the same key"),
    ],
)
async def test_keys_that_must_not_be_declared(local_house: House, wrong, told: str):
    local_house.declare(*wrong)
    with pytest.raises(ConfigError, match=told) as error:
        await local_house.open()
    assert ONE not in str(error.value)


# The comparison

AT = datetime.fromtimestamp(NOW, UTC)
DIGESTS = [f"{number:064x}" for number in range(6)]


def record(digest: str, source: str, name: str) -> KeyRecord:
    return KeyRecord(
        id=digest[-8:],
        alias_id=f"k_{digest[:8]}",
        digest=digest,
        name=name,
        owner=name,
        permissions=frozenset({Permission.ALL}),
        source=source,
        created_at=AT,
    )


def records(sources: list[str]) -> st.SearchStrategy[dict[str, KeyRecord]]:
    one = st.tuples(st.sampled_from(sources), st.sampled_from("abc"))
    return st.dictionaries(st.sampled_from(DIGESTS), one).map(
        lambda found: {digest: record(digest, *rest) for digest, rest in found.items()}
    )


def known(found: dict[str, KeyRecord]) -> dict[str, KnownKey]:
    return {digest: KnownKey("key", one) for digest, one in found.items()}


def applied(
    stored: dict[str, KeyRecord], asked: dict[str, KeyRecord], imported: dict[str, KeyRecord]
) -> dict[str, KeyRecord]:
    found = changes(stored, known(asked), known(imported))
    after = dict(stored)
    after |= {new.record.digest: new.record for new in found.add}
    after |= {new.digest: new for new in found.update}
    for gone in found.remove:
        del after[gone.digest]
    return after


@given(
    stored=records(["issued", "imported", "API_KEY_1", "API_KEY_2"]),
    asked=records(["API_KEY_1", "API_KEY_2"]),
    imported=records(["imported"]),
)
def test_afterwards_everything_is_as_declared(
    stored: dict[str, KeyRecord], asked: dict[str, KeyRecord], imported: dict[str, KeyRecord]
):
    after = applied(stored, asked, imported)
    assert {digest: one for digest, one in after.items() if is_declared(one)} == asked
    for digest, one in stored.items():
        if not is_declared(one) and digest not in asked:
            assert after[digest] == one, "what was issued or imported stays as it was"
    assert after.keys() >= imported.keys()
    assert after.keys() <= stored.keys() | asked.keys() | imported.keys()
    assert applied(after, asked, {}) == after, "doing it again changes nothing"
    assert applied(after, asked, imported) == after


def test_a_known_key_does_not_show_its_key():
    (found,) = declared_keys([declared(ONE)], lambda key: "0" * 64, AT).values()
    assert found.key == ONE
    assert ONE not in repr(found)
