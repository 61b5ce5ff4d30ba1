"""Hashes of large files: computed once, believed until the file is another one."""

import hashlib
import os
from pathlib import Path

import pytest

from genserve.file_hashes import FileHashes, FileStamp, fingerprint


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    return path


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_what_another_process_has_hashed_is_believed(file: Path, tmp_path: Path):
    stamp, memory = FileStamp.of(file), tmp_path / "hashes"
    assert FileHashes(memory).sha256(stamp) == digest(file)
    (remembered,) = memory.iterdir()
    remembered.write_text("0" * 64)
    assert FileHashes(memory).sha256(stamp) == "0" * 64
    os.utime(file, ns=(1, 1))
    assert FileHashes(memory).sha256(FileStamp.of(file)) == digest(file)
    assert len(list(memory.iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"0123", b"\xff" * 64])
def test_a_memory_that_makes_no_sense_is_made_again(file: Path, tmp_path: Path, content: bytes):
    stamp, memory = FileStamp.of(file), tmp_path / "hashes"
    FileHashes(memory).sha256(stamp)
    (remembered,) = memory.iterdir()
    remembered.write_bytes(content)
    assert FileHashes(memory).sha256(stamp) == digest(file)
    assert remembered.read_text() == digest(file)


def test_a_memory_that_cannot_be_written_is_done_without(file: Path, tmp_path: Path):
    hashes = FileHashes(tmp_path / "no such folder" / "hashes")
    assert hashes.sha256(FileStamp.of(file)) == digest(file)
    assert not (tmp_path / "no such folder").exists()


def test_of_a_file_that_is_another_one_by_now_nothing_is_said(file: Path):
    before = FileStamp.of(file)
    file.write_bytes(b"other weights")
    assert FileHashes().sha256(before) is None
    file.unlink()
    assert FileHashes().sha256(before) is None


def test_a_fingerprint_changes_with_any_of_its_files(file: Path, tmp_path: Path):
    other = tmp_path / "other"
    other.write_bytes(b"x")
    both = fingerprint([file, other])
    assert fingerprint([other, file]) == both != fingerprint([file])
    os.utime(other, ns=(1, 1))
    assert fingerprint([file, other]) != both
