"""Changing the master key: every key keeps working, whatever is killed and when."""

import subprocess
import sys
from pathlib import Path

import pytest

from genserve.core import key_vault
from genserve.core.keyring import KeyRing
from genserve.domain.caller import Permission
from genserve.errors import MasterKeyIsConfigured, WrongMasterKey
from genserve.store import keys
from genserve.store.secrets import KeyFile, MasterKeys, new_master_key
from tests.keys.conftest import House

ROOT = Path(__file__).parents[2]
KEYS = [f"a-key-that-was-issued-{number:03}" for number in range(2 * key_vault.BATCH + 30)]
EVERYTHING = len(KEYS) + 1
"""The keys and the root secret."""


async def furnished(house: House, configured: str | None = None) -> KeyRing:
    """A ring with many keys, under the file's key or a configured one."""
    if configured is not None:
        house.configure(encryption_key=configured)
    await house.open()
    house.plant(*KEYS)
    return await house.reopened()


def run_until(house: House, stop_at: int) -> list[str]:
    """Rotate in another process and kill it at the place; returns the places it came to."""
    configured = house.config.keys.encryption_key
    command = [sys.executable, "-W", "error", "-m", "tests.keys.rotating", house.url]
    command += [str(house.config.data_dir), configured.get_secret_value() if configured else "-"]
    with subprocess.Popen(
        [*command, str(stop_at)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        places = []
        for line in process.stdout:
            places.append(line.strip())
            if line.strip().isdigit() and int(line) >= stop_at:
                process.kill()
        assert process.wait() == (0 if places[-1] == "finished" else -9)
    return places


def under(house: House, master_key: str) -> int:
    """How many ciphertexts this master key alone decrypts."""
    absent = house.config.data_dir / "absent"
    masters = MasterKeys.open(master_key, absent, ciphertext_exists=True)
    tokens = house.database().read(keys.ciphertexts).result()
    assert len(tokens) == EVERYTHING
    return sum(masters.is_current(token) for token in tokens)


async def every_key_works(house: House) -> KeyRing:
    ring = await house.reopened()
    assert {ring.resolve(key).name for key in KEYS} == {"planted"}
    return ring


@pytest.mark.parametrize("stop_at", [1, key_vault.BATCH + 2, EVERYTHING])
async def test_a_rotation_of_the_file_survives_being_killed(house: House, stop_at: int):
    file = KeyFile(house.config.secrets_dir)
    await furnished(house)
    (old,) = file.read()
    house.close()
    places = run_until(house, stop_at)
    assert int(places[-1]) >= stop_at
    new, kept = file.read()
    assert kept == old
    done = under(house, new)
    assert stop_at <= done <= EVERYTHING
    assert under(house, old) == EVERYTHING - done
    ring = await every_key_works(house)
    report = await ring.rotate_master()
    assert (report.total, report.changed, report.variable) == (EVERYTHING, EVERYTHING - done, None)
    assert file.read() == (new,)
    assert under(house, new) == EVERYTHING
    await every_key_works(house)


async def test_killed_between_the_file_and_the_first_row(house: House):
    await furnished(house)
    house.close()
    MasterKeys.open(None, house.config.secrets_dir, ciphertext_exists=True).begin_rotation(None)
    ring = await every_key_works(house)
    assert (await ring.rotate_master()).changed == EVERYTHING
    await every_key_works(house)


async def test_a_rotation_of_a_configured_key_survives_being_killed(house: House):
    old, new = new_master_key(), new_master_key()
    await furnished(house, old)
    house.close()
    house.configure(encryption_key=f"{new},{old}")
    run_until(house, key_vault.BATCH + 2)
    assert 0 < under(house, new) < EVERYTHING
    house.configure(encryption_key=new)
    with pytest.raises(WrongMasterKey):
        await house.open()
    house.configure(encryption_key=f"{new},{old}")
    ring = await every_key_works(house)
    report = await ring.rotate_master()
    assert report.variable == "API_KEYS_ENCRYPTION_KEY", "the old one may now be deleted from it"
    house.configure(encryption_key=new)
    await every_key_works(house)
    assert not (house.config.secrets_dir / "encryption_key").exists()


async def test_a_rotation_that_nobody_disturbs(house: House):
    await furnished(house)
    house.close()
    places = run_until(house, EVERYTHING + 1)
    assert places[-1] == "finished"
    assert [int(place) for place in places[:-1]] == sorted(int(place) for place in places[:-1])
    await every_key_works(house)


async def test_keys_that_another_server_stores_meanwhile_are_not_forgotten(house: House):
    old, new = new_master_key(), new_master_key()
    ring = await furnished(house, old)
    house.configure(encryption_key=f"{new},{old}")
    late = [f"a-key-that-was-issued-late-{number}" for number in range(3)]

    def store_under_the_old_key(done: int) -> None:
        if done == EVERYTHING and late[0] not in stored:
            stored.extend(late)
            house.plant(*late, master=f"{old},{new}")

    stored: list[str] = []
    report = await ring.rotate_master(on_batch=store_under_the_old_key)
    assert stored == late
    assert report.changed == report.total == EVERYTHING + len(late)
    house.configure(encryption_key=new)
    assert {(await every_key_works(house)).resolve(key).name for key in late} == {"planted"}


async def test_the_old_key_is_of_no_use_afterwards(house: House):
    ring = await furnished(house)
    file = KeyFile(house.config.secrets_dir)
    (old,) = file.read()
    named = new_master_key()
    await ring.rotate_master(named)
    assert file.read() == (named,)
    assert under(house, old) == 0
    key, _ = await ring.create("after", [Permission.ALL])
    ring = await every_key_works(house)
    assert ring.resolve(key).name == "after"
    house.close()
    file.write((old,))
    with pytest.raises(WrongMasterKey):
        await house.open()


async def test_from_the_file_to_a_configured_key(house: House):
    ring = await furnished(house)
    configured = new_master_key()
    house.configure(encryption_key=configured)
    ring = await every_key_works(house)
    assert under(house, configured) == 0
    report = await ring.rotate_master()
    assert report.changed == EVERYTHING
    assert report.variable is None
    assert not KeyFile(house.config.secrets_dir).path.exists()
    ring = await every_key_works(house)
    with pytest.raises(MasterKeyIsConfigured):
        await ring.rotate_master(new_master_key())


async def test_a_configured_key_is_read_again_before_it_rotates(house: House):
    old, new = new_master_key(), new_master_key()
    ring = await furnished(house, old)
    house.configure(encryption_key=f"{new},{old}")
    assert (await ring.rotate_master()).changed == EVERYTHING
    assert under(house, new) == EVERYTHING
    again = await ring.rotate_master()
    assert (again.changed, again.variable) == (0, "API_KEYS_ENCRYPTION_KEY")
