"""Files by content: whole or not there, deleted only when old, found again after every kind of
interruption."""

import contextlib
import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from genserve.errors import StoreUnavailable
from genserve.store.blobs import BlobStore

ROOT = Path(__file__).parents[2]
OLD_S = 100_000.0


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def make_old(blobs: BlobStore, sha256: str) -> None:
    then = time.time() - OLD_S
    os.utime(blobs.path(sha256), (then, then))


def files(blobs: BlobStore) -> list[str]:
    return sorted(path.name for path in blobs.folder.rglob("*") if path.is_file())


def test_a_file_is_stored_under_the_hash_of_its_content(blobs: BlobStore) -> None:
    name = blobs.put(b"picture")
    assert name == hashlib.sha256(b"picture").hexdigest()
    assert blobs.path(name) == blobs.folder / name[:2] / name
    assert blobs.read(name) == b"picture"
    with blobs.open(name) as file:
        assert file.read() == b"picture"
    assert files(blobs) == [name]
    assert blobs.path(name).stat().st_mode & 0o077 == 0


def test_the_same_content_is_one_file(blobs: BlobStore) -> None:
    first = blobs.put(b"picture")
    inode = blobs.path(first).stat().st_ino
    assert blobs.put(b"picture") == first
    assert blobs.path(first).stat().st_ino == inode
    assert files(blobs) == [first]


def test_many_store_the_same_at_once(blobs: BlobStore) -> None:
    data = os.urandom(200_000)
    names: list[str] = []
    threads = [threading.Thread(target=lambda: names.append(blobs.put(data))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(names) == 8
    assert files(blobs) == [names[0]]
    assert blobs.read(names[0]) == data


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../" * 22 + "etc/passwd",
        "A" * 64,
        "0" * 63,
        "0" * 65,
        "0" * 64 + "\n",
        "0" * 63 + "/",
    ],
)
def test_no_other_name_is_a_file(blobs: BlobStore, name: str) -> None:
    for use in (blobs.path, blobs.read, blobs.open, blobs.delete):
        with pytest.raises(ValueError, match="SHA-256"):
            use(name)


def test_a_file_that_is_not_there(blobs: BlobStore) -> None:
    missing = "0" * 64
    for use in (blobs.read, blobs.open):
        with pytest.raises(FileNotFoundError):
            use(missing)
    assert blobs.delete(missing) is False


def test_an_old_file_is_deleted(blobs: BlobStore) -> None:
    name = blobs.put(b"picture")
    make_old(blobs, name)
    assert blobs.delete(name) is True
    assert files(blobs) == []


def test_a_young_file_is_spared(blobs: BlobStore) -> None:
    name = blobs.put(b"picture")
    assert blobs.delete(name) is False
    assert blobs.read(name) == b"picture"
    assert blobs.delete(name, older_than_s=0) is True


def test_a_file_that_is_stored_again_is_young_again(blobs: BlobStore) -> None:
    name = blobs.put(b"picture")
    make_old(blobs, name)
    blobs.put(b"picture")
    assert blobs.delete(name) is False
    assert blobs.read(name) == b"picture"


class StoredMeanwhile(BlobStore):
    """Somebody stores the file again just after it was found to be old."""

    again = True

    def _is_old(self, path: Path, older_than_s: float) -> bool:
        old = super()._is_old(path, older_than_s)
        if self.again:
            self.again = False
            BlobStore(self.folder).put(b"picture")
        return old


def test_a_file_that_is_stored_again_in_the_last_moment_is_given_back(blobs: BlobStore) -> None:
    name = blobs.put(b"picture")
    make_old(blobs, name)
    assert StoredMeanwhile(blobs.folder).delete(name) is False
    assert blobs.read(name) == b"picture"
    assert files(blobs) == [name]


def test_deleting_while_storing_never_loses_what_was_just_stored(blobs: BlobStore) -> None:
    stop = threading.Event()
    name = blobs.put(b"picture")

    def delete_for_ever() -> None:
        while not stop.is_set():
            blobs.delete(name, older_than_s=1000.0)

    deleter = threading.Thread(target=delete_for_ever)
    deleter.start()
    try:
        for _ in range(300):
            make_old_quietly(blobs, name)
            blobs.put(b"picture")
            # It is out of the way for a moment at most, when its deletion began while it was old.
            assert reappears(blobs, name)
    finally:
        stop.set()
        deleter.join(30)
    assert blobs.read(name) == b"picture"
    assert files(blobs) == [name]


def make_old_quietly(blobs: BlobStore, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        make_old(blobs, name)


def reappears(blobs: BlobStore, name: str) -> bool:
    deadline = time.monotonic() + 10
    while not blobs.path(name).exists():
        if time.monotonic() > deadline:
            return False
    return True


def test_orphans_are_swept_when_they_are_old(blobs: BlobStore) -> None:
    known, old, young = blobs.put(b"known"), blobs.put(b"old"), blobs.put(b"young")
    for name in (known, old):
        make_old(blobs, name)
    half = blobs.path(old).with_name(".half.123.part")
    half.write_bytes(b"ha")
    os.utime(half, (0, 0))
    fresh = blobs.path(young).with_name(".fresh.123.part")
    fresh.write_bytes(b"fr")
    asked: list[str] = []

    def rows(names: list[str]) -> set[str]:
        asked.extend(names)
        return {known}

    assert blobs.sweep(rows, older_than_s=3600) == 2
    assert files(blobs) == sorted([known, young, fresh.name])
    assert sorted(asked) == sorted([known, old, young])


def test_sweeping_asks_in_batches(blobs: BlobStore) -> None:
    names = {f"{n:064x}" for n in range(600)}
    blobs.path("0" * 64).parent.mkdir(parents=True)
    for name in names:
        blobs.path(name).write_bytes(b"")
    sizes: list[int] = []

    def rows(batch: list[str]) -> set[str]:
        sizes.append(len(batch))
        return set(batch)

    assert blobs.sweep(rows, older_than_s=0) == 0
    assert (sum(sizes), max(sizes)) == (len(names), 500)


def test_sweeping_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert BlobStore(tmp_path / "none").sweep(lambda names: set(names), older_than_s=0) == 0


def test_a_full_disk_leaves_nothing_behind(blobs: BlobStore) -> None:
    """A limit on the size of files stands in for the disk's: the write fails in its middle."""
    kept = blobs.put(b"kept")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(StoreUnavailable, match="disk full") as caught:
            blobs.put(bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert files(blobs) == [kept]
    name = blobs.put(bytes(200_000))
    assert len(blobs.read(name)) == 200_000


STORING = """
import os, sys
from pathlib import Path
from genserve.store.blobs import BlobStore
blobs = BlobStore(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    print(blobs.put(os.urandom(300_000)), flush=True)
"""


def test_kill_9_leaves_only_whole_files(blobs: BlobStore) -> None:
    told: list[str] = []
    for wait_s in (0.05, 0.11, 0.2):
        process = subprocess.Popen(
            [sys.executable, "-c", STORING, str(blobs.folder)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=30)
        told += [line.strip() for line in output.splitlines(keepends=True) if line[-1] == "\n"]
    for name in told:
        assert blobs.path(name).is_file()
    for name in files(blobs):
        if not name.startswith("."):
            assert hashlib.sha256(blobs.read(name)).hexdigest() == name
    blobs.sweep(lambda names: set(names), older_than_s=0)
    assert not [name for name in files(blobs) if name.startswith(".")]
