"""The master key and the root secret: forms, files, order, and what is never touched."""

import base64
import os
import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from genserve.errors import (
    BadMasterKey,
    FileForbidden,
    MasterKeyIsConfigured,
    MissingMasterKey,
    WrongMasterKey,
)
from genserve.store.secrets import (
    KeyFile,
    MasterKeys,
    RootSecret,
    parse_master_keys,
    same_text,
)

OLD, NEW, OTHER = ("".join([letter] * 43) + "=" for letter in "AEI")


def opened(folder: Path, configured: str | None = None, *, exists: bool = False) -> MasterKeys:
    return MasterKeys.open(configured, folder / "secrets", ciphertext_exists=exists)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@given(st.binary(min_size=32, max_size=32))
def test_both_alphabets_of_base64_mean_the_same_key(raw: bytes):
    standard = base64.b64encode(raw).decode()
    url_safe = base64.urlsafe_b64encode(raw).decode()
    assert parse_master_keys(standard, "X") == parse_master_keys(url_safe, "X") == (url_safe,)
    Fernet(url_safe)


@pytest.mark.parametrize(
    "text", ["", "short", OLD[:-1], OLD + "=", OLD + "x", "!" * 43 + "=", f"{OLD},", f"{OLD},x"]
)
def test_a_master_key_of_another_form_is_refused(tmp_path: Path, text: str):
    with pytest.raises(BadMasterKey) as error:
        opened(tmp_path, text)
    assert error.value.params["variable"] == "API_KEYS_ENCRYPTION_KEY"
    assert error.value.params["length"] in {len(part) for part in text.split(",")}
    assert list(tmp_path.iterdir()) == []


def test_the_refusal_speaks_of_44_characters_and_not_of_the_key(tmp_path: Path):
    with pytest.raises(BadMasterKey) as error:
        opened(tmp_path, "a-secret-of-the-wrong-length")
    for text in (error.value.detail("en"), error.value.detail("zh")):
        assert "44" in text
        assert "28" in text
        assert "a-secret" not in text


def test_a_file_is_made_where_nothing_is_configured(tmp_path: Path):
    token = opened(tmp_path).encrypt("text")
    assert mode(tmp_path / "secrets") == 0o700
    assert mode(tmp_path / "secrets" / "encryption_key") == 0o600
    assert [path.name for path in (tmp_path / "secrets").iterdir()] == ["encryption_key"]
    assert opened(tmp_path, exists=True).decrypt(token) == "text"


def test_no_file_is_made_over_existing_ciphertext(tmp_path: Path):
    with pytest.raises(MissingMasterKey):
        opened(tmp_path, exists=True)
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_made_where_a_key_is_configured(tmp_path: Path):
    opened(tmp_path, OLD)
    assert list(tmp_path.iterdir()) == []


def test_the_first_key_encrypts_and_all_decrypt(tmp_path: Path):
    under_old = opened(tmp_path, OLD).encrypt("text")
    both = opened(tmp_path, f"{NEW}, {OLD}")
    assert both.decrypt(under_old) == "text"
    assert not both.is_current(under_old)
    assert both.is_current(both.rotate(under_old))
    assert opened(tmp_path, NEW).decrypt(both.encrypt("text")) == "text"
    with pytest.raises(WrongMasterKey):
        opened(tmp_path, OLD).decrypt(both.encrypt("text"))


def test_a_key_that_fits_nothing_is_the_wrong_one(tmp_path: Path):
    token = opened(tmp_path, OLD).encrypt("text")
    with pytest.raises(WrongMasterKey):
        opened(tmp_path, OTHER).decrypt(token)
    with pytest.raises(WrongMasterKey):
        opened(tmp_path, OTHER).rotate(token)


def test_a_configured_key_is_followed_by_that_of_the_file(tmp_path: Path):
    under_file = opened(tmp_path).encrypt("text")
    masters = opened(tmp_path, NEW, exists=True)
    assert masters.decrypt(under_file) == "text"
    assert masters.is_rotating
    assert opened(tmp_path, NEW, exists=True).is_current(masters.encrypt("text"))


def test_rotating_the_file_keeps_the_old_key_until_the_end(tmp_path: Path):
    masters = opened(tmp_path)
    token = masters.encrypt("text")
    begun = masters.begin_rotation(None)
    assert begun.is_rotating
    assert not begun.is_current(token)
    assert opened(tmp_path, exists=True).decrypt(token) == "text"
    finished = begun.finish_rotation()
    assert not finished.is_rotating
    assert finished.decrypt(begun.rotate(token)) == "text"
    with pytest.raises(WrongMasterKey):
        opened(tmp_path, exists=True).decrypt(token)


def test_an_interrupted_rotation_goes_on_with_the_same_key(tmp_path: Path):
    begun = opened(tmp_path).begin_rotation(None)
    again = opened(tmp_path, exists=True).begin_rotation(None)
    assert again.is_current(begun.encrypt("text"))
    assert len(KeyFile(tmp_path / "secrets").read()) == 2


def test_a_named_key_becomes_the_first(tmp_path: Path):
    opened(tmp_path).begin_rotation(NEW)
    begun = opened(tmp_path, exists=True).begin_rotation(OTHER)
    assert KeyFile(tmp_path / "secrets").read()[:2] == (OTHER, NEW)
    assert begun.finish_rotation().is_current(begun.encrypt("text"))
    assert KeyFile(tmp_path / "secrets").read() == (OTHER,)
    with pytest.raises(BadMasterKey, match="NEW_KEY"):
        opened(tmp_path, exists=True).begin_rotation("short")


def test_a_configured_key_is_not_replaced_behind_its_owner(tmp_path: Path):
    with pytest.raises(MasterKeyIsConfigured, match="API_KEYS_ENCRYPTION_KEY"):
        opened(tmp_path, OLD).begin_rotation(NEW)
    opened(tmp_path)
    masters = opened(tmp_path, NEW, exists=True).begin_rotation(None).finish_rotation()
    assert not masters.is_rotating
    assert not (tmp_path / "secrets" / "encryption_key").exists()


def test_a_half_written_key_file_is_replaced(tmp_path: Path):
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "encryption_key.new").write_text("half")
    opened(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["encryption_key"]
    assert mode(folder / "encryption_key") == 0o600


def test_a_key_file_that_cannot_be_read_or_made_is_named(tmp_path: Path):
    (tmp_path / "secrets" / "encryption_key").mkdir(parents=True)
    with pytest.raises(FileForbidden, match="encryption_key"):
        opened(tmp_path)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    with pytest.raises(FileForbidden, match="encryption_key"):
        opened(blocked)
    with pytest.raises(FileForbidden):
        KeyFile(blocked).write((OLD,))


def test_a_damaged_key_file_is_refused(tmp_path: Path):
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "encryption_key").write_bytes(os.urandom(44))
    with pytest.raises(BadMasterKey, match="encryption_key"):
        opened(tmp_path)


@given(st.text(), st.text())
def test_digests_tell_keys_apart_and_depend_on_the_secret(one: str, other: str):
    root = RootSecret("A" * 43 + "=")
    assert (root.digest(one) == root.digest(other)) == (one == other)
    assert root.digest(one) != RootSecret("B" * 43 + "=").digest(one)
    assert len(root.digest(one)) == 64


def test_a_digest_is_hmac_sha256_and_takes_any_header():
    root = RootSecret("A" * 43 + "=")
    assert int(root.digest("\udcff\x00"), 16) > 0
    assert root.digest("key") != root.sign("api-key digest", "key")


def test_signatures_differ_by_purpose_and_message():
    root = RootSecret(RootSecret.new_text())
    signatures = {root.sign(purpose, message) for purpose in "ab" for message in "cd"}
    assert len(signatures) == 4
    assert root.sign("a", "c") in signatures


@given(st.text(), st.text())
def test_comparing_takes_any_text(one: str, other: str):
    assert same_text(one, other) == (one == other)


def test_secrets_do_not_show(tmp_path: Path):
    root = RootSecret.new_text()
    shown = repr([opened(tmp_path, OLD), RootSecret(root), KeyFile(tmp_path)])
    assert OLD not in shown
    assert root not in shown
