"""Old key files at the start: imported once, put away, and left alone when something is wrong."""

import json
from pathlib import Path

import pytest

from genserve.domain.caller import Permission
from genserve.errors import BadKeyFile, CannotDecryptFile, InvalidKey, MissingMasterKey
from genserve.store.secrets import MasterKeys, new_master_key
from tests.keys.conftest import House, declared

KEY, OTHER = "abc123def456", "xyz789ghi012-of-more-than-24"
CONTENT = {
    KEY: {"name": "developer", "permissions": ["generation", "readonly"]},
    OTHER: {"name": "admin", "permissions": "all"},
}


def plain(folder: Path, content: object = CONTENT) -> Path:
    path = folder / "api_keys.json"
    path.write_text(json.dumps(content))
    return path


def encrypted(folder: Path, master_key: str, content: object = CONTENT) -> Path:
    path = folder / "api_keys.enc"
    masters = MasterKeys.open(master_key, folder / "no-secrets", ciphertext_exists=True)
    path.write_bytes(masters.encrypt(json.dumps(content)))
    return path


@pytest.fixture(params=["working folder", "data folder"])
def folder(request: pytest.FixtureRequest, working_folder: Path, data_dir: Path) -> Path:
    return working_folder if request.param == "working folder" else data_dir


async def test_a_plain_file_is_imported_once_and_deleted(house: House, folder: Path):
    path = plain(folder)
    ring = await house.open()
    one = ring.resolve(KEY)
    assert (one.name, one.source) == ("developer", "imported")
    assert one.permissions == {"generation", "readonly"}
    assert ring.resolve(OTHER).is_admin
    assert one.owner != ring.resolve(OTHER).owner
    assert not path.exists()
    await ring.delete_key(KEY)
    ring = await house.reopened()
    with pytest.raises(InvalidKey):
        ring.resolve(KEY)
    assert ring.resolve(OTHER).source == "imported"


async def test_an_encrypted_file_is_imported_once_and_renamed(local_house: House, folder: Path):
    master_key = new_master_key()
    path = encrypted(folder, master_key)
    content = path.read_bytes()
    local_house.configure(encryption_key=master_key)
    ring = await local_house.open()
    assert {record.name for record in ring.all()} == {"developer", "admin"}
    assert not path.exists()
    assert (folder / "api_keys.enc.imported").read_bytes() == content
    await ring.delete_key(KEY)
    assert [record.name for record in (await local_house.reopened()).all()] == ["admin"]


async def test_an_encrypted_file_needs_its_key(local_house: House, folder: Path):
    path = encrypted(folder, new_master_key())
    content = path.read_bytes()
    with pytest.raises(MissingMasterKey):
        await local_house.open()
    assert not local_house.config.secrets_dir.exists()
    local_house.configure(encryption_key=new_master_key())
    with pytest.raises(CannotDecryptFile):
        await local_house.reopened()
    assert path.read_bytes() == content
    assert [found.name for found in folder.iterdir() if "api_keys" in found.name] == [path.name]


async def test_a_file_that_is_not_understood_stops_the_start(local_house: House, folder: Path):
    path = plain(folder, {KEY: {"name": "developer", "permissions": "everything"}})
    with pytest.raises(BadKeyFile):
        await local_house.open()
    assert path.exists()
    path.unlink()
    assert (await local_house.reopened()).all() == []


async def test_an_import_cut_short_by_a_crash_is_done_once_more(house: House, folder: Path):
    plain(folder)
    before = (await house.open()).all()
    path = plain(folder)  # as if the process had died between storing and deleting
    assert (await house.reopened()).all() == before
    assert not path.exists()


async def test_files_of_both_kinds_and_folders_are_one_collection(
    local_house: House, working_folder: Path, data_dir: Path
):
    master_key = new_master_key()
    local_house.configure(encryption_key=master_key)
    plain(working_folder, {KEY: CONTENT[KEY]})
    encrypted(data_dir, master_key, CONTENT)
    assert len((await local_house.open()).all()) == 2
    assert not (working_folder / "api_keys.json").exists()


async def test_a_declaration_goes_before_an_import(house: House, folder: Path):
    plain(folder)
    house.declare(declared(KEY, "declared", permissions=["all"]))
    ring = await house.open()
    assert (ring.resolve(KEY).name, ring.resolve(KEY).source) == ("declared", "API_KEY_1")
    plain(folder)
    house.declare()
    await ring.reload()
    assert ring.resolve(KEY).source == "imported"


async def test_a_reload_imports_too(local_house: House, folder: Path):
    ring = await local_house.open()
    await ring.create("issued", [Permission.ALL])
    path = plain(folder)
    report = await ring.reload()
    assert len(report.added) == 2
    assert not path.exists()
    assert ring.resolve(OTHER).name == "admin"


async def test_imported_keys_end_the_default_key(local_house: House, folder: Path):
    plain(folder, {"genserve-default-key-2024": {"name": "default", "permissions": "all"}})
    assert (await local_house.open()).default_key_active
    plain(folder)
    assert not (await local_house.reopened()).default_key_active
