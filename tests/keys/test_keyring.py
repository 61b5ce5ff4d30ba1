"""The ring: who holds a key, and how keys come and go."""

import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from genserve.config import DEFAULT_API_KEY, Keys
from genserve.core.keyring import KeyRing
from genserve.domain.api_key import alias_id, check_of, new_key
from genserve.domain.caller import Permission
from genserve.errors import (
    ExpiredKey,
    InvalidKey,
    ValidationFailed,
)
from genserve.store.schema import keys as key_table
from genserve.store.schema import owners
from tests.keys.conftest import DAY_S, NOW, House

GENERATION, READONLY, ALL = Permission.GENERATION, Permission.READONLY, Permission.ALL


def works(ring: KeyRing, key: str) -> bool:
    try:
        ring.resolve(key)
    except InvalidKey:
        return False
    return True


# Issuing


async def test_an_issued_key_works_at_once_and_after_a_restart(house: House):
    ring = await house.open()
    key, record = await ring.create("alice", [GENERATION, READONLY], priority_floor=-5)
    assert ring.resolve(key) == record
    again = (await house.reopened()).resolve(key)
    assert again == record
    assert again.id == f"{key[:8]}-{key[-4:]}"
    assert again.alias_id == alias_id(again.digest)
    assert (again.name, again.source, again.priority_floor) == ("alice", "issued", -5)
    assert again.permissions == {GENERATION, READONLY}
    assert again.created_at == datetime.fromtimestamp(NOW, UTC)


async def test_each_issued_key_gets_its_own_owner_unless_one_is_named(house: House):
    ring = await house.open()
    _, one = await ring.create("same name", [ALL])
    _, other = await ring.create("same name", [ALL])
    _, named = await ring.create("same name", [ALL], owner="team")
    assert len({one.owner, other.owner, named.owner}) == 3
    assert named.owner == "team"
    stored = house.database().read(lambda conn: set(conn.execute(select(owners.c.id)).scalars()))
    assert {one.owner, other.owner, "team"} <= stored.result()


async def test_what_is_wrong_with_a_new_key_is_told_at_once(ring: KeyRing):
    past = datetime.fromtimestamp(NOW - 1, UTC)
    with pytest.raises(ValidationFailed) as error:
        await ring.create(" ", [], owner="x" * 201, expires_at=past, priority_floor=-101)
    problems = error.value.params["problems"]
    assert isinstance(problems, list)
    fields = {str(problem).partition(":")[0] for problem in problems}
    assert fields == {"name", "permissions", "owner", "expires_at", "priority_floor"}
    with pytest.raises(ValidationFailed):
        await ring.create("x", [ALL], expires_at=datetime(2100, 1, 1))
    assert ring.all() == []


# Resolving


@pytest.mark.parametrize(
    "presented", ["", "nobody", "gs_" + "A" * 49, "ключ", "\udcff", "x" * 10**5]
)
async def test_a_key_that_nobody_holds_is_refused(ring: KeyRing, presented: str):
    await ring.create("alice", [ALL])
    with pytest.raises(InvalidKey):
        ring.resolve(presented)


async def test_a_mistyped_key_is_refused_before_it_is_looked_up(local_house: House):
    key = new_key()
    mistyped = key[:-6] + check_of(key[:-6] + "x")
    await local_house.open()
    local_house.plant(mistyped)
    ring = await local_house.reopened()
    assert [record.id for record in ring.all()] == [f"{mistyped[:8]}-{mistyped[-4:]}"]
    with pytest.raises(InvalidKey):
        ring.resolve(mistyped)


async def test_keys_and_signatures_are_compared_in_constant_time(
    ring: KeyRing, monkeypatch: pytest.MonkeyPatch
):
    key, _ = await ring.create("alice", [ALL])
    compared = []
    real: Callable[[Any, Any], bool] = hmac.compare_digest

    def seen(one: Any, other: Any) -> bool:
        compared.append(one)
        return real(one, other)

    monkeypatch.setattr("hmac.compare_digest", seen)
    ring.resolve(key)
    assert len(compared) == 1
    ring.image_signature_ok("a.png", int(NOW) + 1, "wrong")
    assert len(compared) == 2


async def test_an_expired_key_says_when(house: House):
    ring = await house.open()
    expires_at = datetime.fromtimestamp(NOW, UTC) + timedelta(days=1)
    key, _ = await ring.create("alice", [ALL], expires_at=expires_at)
    house.clock.now = NOW + DAY_S - 0.001
    assert ring.resolve(key).expires_at == expires_at
    house.clock.now = NOW + DAY_S
    for current in (ring, await house.reopened()):
        with pytest.raises(ExpiredKey) as error:
            current.resolve(key)
        assert error.value.params["expired_at"] == expires_at.isoformat()


# The documented default key


async def test_the_default_key_is_active_exactly_while_no_key_exists(house: House):
    ring = await house.open()
    assert ring.default_key_active
    assert ring.is_default_key(DEFAULT_API_KEY)
    assert not ring.is_default_key("another")
    assert not works(ring, DEFAULT_API_KEY)
    caller = ring.default_caller()
    assert (caller.id, caller.owner, caller.source) == ("default", "default", "default")
    assert caller.permissions == {ALL}
    soon = datetime.fromtimestamp(NOW + 1, UTC)
    key, _ = await ring.create("alice", [GENERATION], expires_at=soon)
    assert not ring.default_key_active
    assert not ring.is_default_key(DEFAULT_API_KEY)
    house.clock.now = NOW + DAY_S
    assert not (await house.reopened()).default_key_active, "an expired key is a key"
    ring = await house.reopened()
    await ring.delete_key(key)
    assert ring.default_key_active


async def test_the_default_key_can_be_switched_off(local_house: House):
    local_house.config = local_house.config.model_copy(update={"keys": Keys(default_key=False)})
    ring = await local_house.open()
    assert not ring.default_key_active
    assert not ring.is_default_key(DEFAULT_API_KEY)


# Last use


def last_used(local_house: House, digest: str) -> float | None:
    asked = select(key_table.c.last_used_at).where(key_table.c.digest == digest)
    found: float | None = (
        local_house.databases[0].read(lambda c: c.execute(asked).scalar_one()).result()
    )
    return found


async def test_last_use_shows_at_once_and_is_written_once_a_minute(house: House):
    ring = await house.open()
    key, record = await ring.create("alice", [ALL])
    await ring.flush_last_used()
    assert ring.all()[0].last_used_at is None
    written = []
    for moment in (1, 30, 60.9, 61, 100, 130):
        house.clock.now = NOW + moment
        ring.resolve(key)
        assert ring.all()[0].last_used_at == datetime.fromtimestamp(house.clock.now, UTC)
        await ring.flush_last_used()
        written.append(last_used(house, record.digest))
    assert written == [NOW + 1, NOW + 1, NOW + 1, NOW + 61, NOW + 61, NOW + 130]
    again = await house.reopened()
    assert again.all()[0].last_used_at == datetime.fromtimestamp(NOW + 130, UTC)


async def test_other_changes_do_not_make_last_use_be_written_more_often(house: House):
    ring = await house.open()
    key, record = await ring.create("alice", [ALL])
    ring.resolve(key)
    await ring.flush_last_used()
    other, _ = await ring.create("bob", [ALL])
    for change in (ring.delete_key(other), ring.reload()):
        await change
        house.clock.now += 29
        ring.resolve(key)
        await ring.flush_last_used()
        assert last_used(house, record.digest) == NOW


# Links to pictures


async def test_a_link_is_good_for_its_picture_until_it_expires(house: House):
    ring = await house.open()
    until = int(NOW) + 3600
    signature = ring.sign_image("a.png", until)
    assert ring.image_signature_ok("a.png", until, signature)
    assert not ring.image_signature_ok("b.png", until, signature)
    assert not ring.image_signature_ok("a.png", until + 1, signature)
    assert not ring.image_signature_ok("a.png", until, "подпись")
    house.clock.now = until
    assert not ring.image_signature_ok("a.png", until, signature)
    house.clock.now = NOW
    ring = await house.reopened()
    assert ring.image_signature_ok("a.png", until, signature)
    await ring.rotate_master()
    assert ring.image_signature_ok("a.png", until, signature)
