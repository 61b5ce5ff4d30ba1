"""Deleting keys: what is named is gone for good, and nothing else is."""

import asyncio
import sqlite3

import pytest

from genserve.core.keyring import KeyRing
from genserve.domain.api_key import alias_id, new_key
from genserve.domain.caller import Permission
from genserve.errors import AmbiguousKey, InvalidKey, KeyIsDeclared, KeyNotFound, StoreUnavailable
from genserve.store.database import Database
from tests.keys.conftest import House, declared

ALL = Permission.ALL


def works(ring: KeyRing, key: str) -> bool:
    try:
        ring.resolve(key)
    except InvalidKey:
        return False
    return True


async def test_a_deleted_key_never_works_again(house: House):
    ring = await house.open()
    by_key, _ = await ring.create("a", [ALL])
    by_id, record = await ring.create("b", [ALL])
    by_alias, aliased = await ring.create("c", [ALL])
    by_name, _ = await ring.create("d", [ALL])
    await ring.delete_key(by_key)
    (deleted,) = await ring.delete_id(record.id)
    assert deleted == record
    await ring.delete_id(aliased.alias_id)
    await ring.delete_name("d")
    for current in (ring, await house.reopened()):
        assert not any(works(current, key) for key in (by_key, by_id, by_alias, by_name))
        assert current.all() == []


async def test_a_short_key_is_called_by_its_digest_only(local_house: House):
    local_house.declare(declared("abc123def456"))
    (record,) = (await local_house.open()).all()
    assert record.id == record.alias_id == alias_id(record.digest)
    assert "abc1" not in record.model_dump_json()


async def test_what_matches_two_keys_deletes_none(house: House):
    await house.open()
    house.plant("abcdefgh-one-of-them-wxyz", "abcdefgh-the-other-one-wxyz")
    ring = await house.reopened()
    first, second = ring.all()
    assert first.id == second.id == "abcdefgh-wxyz"
    for delete in (ring.delete_id("abcdefgh-wxyz"), ring.delete_name("planted")):
        with pytest.raises(AmbiguousKey) as error:
            await delete
        assert error.value.params["matches"] == 2
    assert len(ring.all()) == 2
    await ring.delete_id(first.alias_id)
    assert ring.all() == [second]


async def test_what_is_not_there_cannot_be_deleted_and_is_not_repeated(ring: KeyRing):
    absent = new_key()
    for delete in (ring.delete_key(absent), ring.delete_id(absent)):
        with pytest.raises(KeyNotFound) as error:
            await delete
        assert error.value.params["key"] == f"{absent[:8]}-{absent[-4:]}"
    for delete in (ring.delete_id("k_00000000"), ring.delete_name("k_00000000")):
        with pytest.raises(KeyNotFound, match="k_00000000"):
            await delete


async def test_a_key_given_as_an_id_is_not_repeated_even_when_short(local_house: House):
    local_house.declare(declared("abc123def456"))
    with pytest.raises(KeyNotFound) as error:
        await (await local_house.open()).delete_id("abc123def456")
    assert "abc123def456" not in str(error.value)


async def test_a_declared_key_is_deleted_where_it_is_declared(local_house: House):
    local_house.declare(declared("xyz789ghi012-and-twelve-more", variable="API_KEY_7"))
    ring = await local_house.open()
    (record,) = ring.all()
    for delete in (
        ring.delete_key("xyz789ghi012-and-twelve-more"),
        ring.delete_id(record.id),
        ring.delete_id(record.alias_id),
        ring.delete_name("developer"),
    ):
        with pytest.raises(KeyIsDeclared) as error:
            await delete
        assert error.value.params == {"key": record.id, "variable": "API_KEY_7"}
    assert works(ring, "xyz789ghi012-and-twelve-more")


async def test_a_delete_is_finished_even_when_its_client_hangs_up(house: House):
    ring = await house.open()
    key, _ = await ring.create("alice", [ALL])
    deleting = asyncio.create_task(ring.delete_key(key))
    await asyncio.sleep(0)
    deleting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deleting
    await ring.create("bob", [ALL])  # waits its turn behind the delete
    assert not works(ring, key)
    assert not works(await house.reopened(), key)


async def test_concurrent_changes_all_take_place(house: House):
    ring = await house.open()
    made = await asyncio.gather(*(ring.create(f"user {n}", [ALL]) for n in range(20)))
    await asyncio.gather(*(ring.delete_key(key) for key, _ in made[::2]))
    for current in (ring, await house.reopened()):
        assert [works(current, key) for key, _ in made] == [False, True] * 10


async def test_memory_follows_only_what_was_committed(local_house: House):
    ring = await local_house.open()
    key, _ = await ring.create("alice", [ALL])
    database = Database.open(local_house.url, busy_timeout_s=0.05)
    local_house.databases.append(database)
    hasty = await KeyRing.open(
        database, local_house.config, local_house.clock, lambda: local_house.config
    )
    blocker = sqlite3.connect(local_house.url.removeprefix("sqlite:///"))
    blocker.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(StoreUnavailable):
            await hasty.create("bob", [ALL])
        with pytest.raises(StoreUnavailable):
            await hasty.delete_key(key)
    finally:
        blocker.close()
    assert [record.name for record in hasty.all()] == ["alice"]
    assert works(hasty, key)
    await hasty.delete_key(key)
    assert not works(hasty, key)
