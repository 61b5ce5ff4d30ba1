"""Key files of earlier versions: every shape that is read, and every reason to refuse one."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from genserve.domain.api_key import new_key
from genserve.errors import BadKeyFile, CannotDecryptFile, FileForbidden
from genserve.store import legacy_keys
from genserve.store.secrets import MasterKeys, new_master_key

ENTRY = {"name": "developer", "permissions": ["generation", "readonly"]}
KEY = "abc123def456"


@pytest.fixture
def masters(tmp_path: Path) -> MasterKeys:
    return MasterKeys.open(new_master_key(), tmp_path / "secrets", ciphertext_exists=False)


def written(folder: Path, content: Any) -> Path:
    path = folder / "api_keys.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


SHAPES = {
    "map": {KEY: ENTRY},
    "map with a comma list": {KEY: {"name": "developer", "permissions": "generation, readonly"}},
    "map from names": {"developer": {"key": KEY, "permissions": "generation,readonly"}},
    "list": [{"key": KEY, **ENTRY}],
    "list with api_key": [{"api_key": KEY, **ENTRY, "created_at": "2024-01-01"}],
    "map below api_keys": {"api_keys": {KEY: ENTRY}},
    "list below keys": {"version": 2, "keys": [{"key": KEY, **ENTRY}]},
}


@pytest.mark.parametrize("content", SHAPES.values(), ids=SHAPES)
def test_every_known_shape_is_read(tmp_path: Path, masters: MasterKeys, content: Any):
    (found,) = legacy_keys.read(written(tmp_path, content), masters.decrypt)
    assert (found.key, found.name) == (KEY, "developer")
    assert found.permissions == {"generation", "readonly"}
    assert KEY not in repr(found)


def test_expiry_is_kept_in_utc(tmp_path: Path, masters: MasterKeys):
    for written_as in ("2030-01-02T03:04:05", "2030-01-02T03:04:05Z", 1893553445):
        path = written(tmp_path, {KEY: {**ENTRY, "expires_at": written_as}})
        (found,) = legacy_keys.read(path, masters.decrypt)
        assert found.expires_at == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("switched_off", [{"enabled": False}, {"active": False}, {"revoked": True}])
def test_keys_that_are_switched_off_stay_out(
    tmp_path: Path, masters: MasterKeys, switched_off: dict[str, bool]
):
    path = written(tmp_path, {KEY: {**ENTRY, **switched_off}})
    assert legacy_keys.read(path, masters.decrypt) == []


def test_the_documented_default_key_never_becomes_a_real_one(tmp_path: Path, masters: MasterKeys):
    path = written(tmp_path, {"genserve-default-key-2024": ENTRY})
    assert legacy_keys.read(path, masters.decrypt) == []


def test_an_encrypted_file_is_read_with_any_of_the_keys(tmp_path: Path):
    old, new = new_master_key(), new_master_key()
    token = MasterKeys.open(old, tmp_path, ciphertext_exists=True).encrypt(json.dumps({KEY: ENTRY}))
    path = tmp_path / "api_keys.enc"
    path.write_bytes(token + b"\n")
    masters = MasterKeys.open(f"{new},{old}", tmp_path, ciphertext_exists=True)
    assert [found.key for found in legacy_keys.read(path, masters.decrypt)] == [KEY]


def test_an_encrypted_file_under_another_key_is_refused(tmp_path: Path, masters: MasterKeys):
    path = tmp_path / "api_keys.enc"
    path.write_bytes(
        MasterKeys.open(new_master_key(), tmp_path, ciphertext_exists=True).encrypt("{}")
    )
    before = path.read_bytes()
    with pytest.raises(CannotDecryptFile) as error:
        legacy_keys.read(path, masters.decrypt)
    assert "无法解密文件" in error.value.title("zh")
    assert "检查API_KEYS_ENCRYPTION_KEY是否正确" in error.value.detail("zh")
    assert path.read_bytes() == before


mistyped = new_key()[:-6] + "000000"
PROBLEMS = {
    "no permissions": ({KEY: {"name": "x"}}, "permissions"),
    "unknown permission": ({KEY: {"name": "x", "permissions": "everything"}}, "permissions"),
    "empty permissions": ({KEY: {"name": "x", "permissions": ""}}, "permissions"),
    "short key": ([{"key": "s3cret", **ENTRY}], "key 1: key"),
    "no key": ([{"key": KEY, **ENTRY}, ENTRY], "key 2: key"),
    "not an entry": ({KEY: 5}, "key 1"),
    "not a collection": (7, "key 1"),
    "expiry": ({KEY: {**ENTRY, "expires_at": "soon"}}, "expires_at"),
    "wrong check": ({mistyped: ENTRY}, "six characters"),
}


@pytest.mark.parametrize(("content", "told"), PROBLEMS.values(), ids=PROBLEMS)
def test_what_cannot_be_understood_is_never_guessed(
    tmp_path: Path, masters: MasterKeys, content: Any, told: str
):
    path = written(tmp_path, content)
    before = path.read_bytes()
    with pytest.raises(BadKeyFile) as error:
        legacy_keys.read(path, masters.decrypt)
    assert told in error.value.detail("en")
    assert not any(key in str(error.value) for key in (KEY, "s3cret", mistyped))
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, masters: MasterKeys, content: bytes):
    path = tmp_path / "api_keys.json"
    path.write_bytes(content)
    with pytest.raises(BadKeyFile, match="not JSON"):
        legacy_keys.read(path, masters.decrypt)


def test_an_empty_collection_holds_no_keys(tmp_path: Path, masters: MasterKeys):
    empty: list[Any] = [{}, [], {"api_keys": []}]
    for content in empty:
        assert legacy_keys.read(written(tmp_path, content), masters.decrypt) == []


def test_files_are_found_once_in_each_folder(tmp_path: Path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    (one / "api_keys.json").write_text("{}")
    (other / "api_keys.enc").write_text("")
    (other / "api_keys.enc.imported").write_text("")
    again = tmp_path / "other" / ".." / "one"
    assert legacy_keys.find([one, other, again, tmp_path / "absent"]) == [
        one / "api_keys.json",
        other / "api_keys.enc",
    ]


def test_an_encrypted_file_is_renamed_and_a_plain_one_deleted(tmp_path: Path):
    for name in ("api_keys.json", "api_keys.enc"):
        (tmp_path / name).write_text("content")
        legacy_keys.put_away(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["api_keys.enc.imported"]
    assert (tmp_path / "api_keys.enc.imported").read_text() == "content"


def test_a_file_that_cannot_be_read_or_put_away_is_a_matter_of_permissions(
    tmp_path: Path, masters: MasterKeys
):
    path = tmp_path / "api_keys.json"
    with pytest.raises(FileForbidden):
        legacy_keys.put_away(path)
    path.mkdir()
    with pytest.raises(FileForbidden) as error:
        legacy_keys.read(path, masters.decrypt)
    assert error.value.title("zh") == "文件权限错误"
