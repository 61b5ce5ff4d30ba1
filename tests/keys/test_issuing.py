"""The same Idempotency-Key leads to one API key, and nothing about it lies in plain text."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import text

from genserve.domain.caller import Permission
from genserve.errors import IdempotencyMismatch, InvalidKey, IssuedKeyDeleted
from genserve.store.intake import IdempotencyClaim
from genserve.store.secrets import new_master_key
from tests.keys.conftest import House

CLAIM = IdempotencyClaim(key_digest="d" * 64, value="order-1", fingerprint="f" * 64)
READ = [Permission.READONLY]


async def test_the_same_request_again_gives_the_same_key(house: House):
    ring = await house.open()
    first = await ring.issue("alice", READ, claim=CLAIM)
    again = await ring.issue("alice", READ, claim=CLAIM)
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.key, again.record.id) == (first.key, first.record.id)
    assert len(ring.all()) == 1
    assert ring.resolve(again.key).name == "alice"


async def test_many_at_once_give_one_key(house: House):
    ring = await house.open()
    issued = await asyncio.gather(*(ring.issue("alice", READ, claim=CLAIM) for _ in range(20)))
    assert len({one.key for one in issued}) == 1
    assert [one.replayed for one in issued].count(False) == 1
    assert len(ring.all()) == 1


async def test_it_outlives_a_restart_and_a_new_master_key(house: House):
    ring = await house.open()
    first = await ring.issue("alice", READ, claim=CLAIM)
    await ring.rotate_master(new_master_key())
    house.close()
    again = await (await house.open()).issue("alice", READ, claim=CLAIM)
    assert (again.key, again.replayed) == (first.key, True)


async def test_another_body_is_refused_and_issues_nothing(house: House):
    ring = await house.open()
    await ring.issue("alice", READ, claim=CLAIM)
    with pytest.raises(IdempotencyMismatch):
        await ring.issue("bob", READ, claim=replace(CLAIM, fingerprint="0" * 64))
    assert [record.name for record in ring.all()] == ["alice"]


async def test_other_callers_have_nothing_to_do_with_it(house: House):
    ring = await house.open()
    one = await ring.issue("alice", READ, claim=CLAIM)
    two = await ring.issue("alice", READ, claim=replace(CLAIM, key_digest="e" * 64))
    three = await ring.issue("alice", READ, claim=replace(CLAIM, value="order-2"))
    assert len({one.key, two.key, three.key}) == 3


async def test_a_deleted_key_does_not_come_back(house: House):
    ring = await house.open()
    first = await ring.issue("alice", READ, claim=CLAIM)
    await ring.delete_key(first.key)
    with pytest.raises(IssuedKeyDeleted, match="order-1"):
        await ring.issue("alice", READ, claim=CLAIM)
    with pytest.raises(InvalidKey):
        ring.resolve(first.key)


async def test_it_is_forgotten_after_its_time(house: House):
    ring = await house.open()
    first = await ring.issue("alice", READ, claim=CLAIM)
    ttl_s = house.config.queue.idempotency_ttl_s
    house.clock.now += ttl_s
    assert (await ring.issue("alice", READ, claim=CLAIM)).key == first.key
    house.clock.now += 1
    fresh = await ring.issue("alice", READ, claim=CLAIM)
    assert not fresh.replayed
    assert fresh.key != first.key


async def test_what_is_kept_for_it_is_not_the_key(house: House):
    ring = await house.open()
    issued = await ring.issue("alice", READ, claim=CLAIM)
    assert issued.key not in repr(issued)
    house.close()
    query = text("SELECT * FROM key_requests")
    rows = house.database().read(lambda conn: conn.execute(query).all()).result()
    assert len(rows) == 1
    assert issued.key not in repr(rows)
    assert issued.key[3:40] not in repr(rows)
