"""The data folder is one server's, for as long as that lives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from genserve.errors import DataFolderInUse, StartupError
from genserve.store.datafolder import SUBFOLDERS, DataFolder

ROOT = Path(__file__).parents[2]
HOLDING = """
import sys
from pathlib import Path
from genserve.store.datafolder import DataFolder
folder = DataFolder.open(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    with DataFolder.open(tmp_path / "a" / "data") as folder:
        for path in (folder.path, *(folder.path / name for name in SUBFOLDERS)):
            assert path.stat().st_mode & 0o777 == 0o700


def test_it_is_locked_until_it_is_closed(tmp_path: Path) -> None:
    first = DataFolder.open(tmp_path)
    with pytest.raises(DataFolderInUse, match=str(tmp_path)):
        DataFolder.open(tmp_path)
    first.close()
    first.close()
    DataFolder.open(tmp_path).close()


def test_a_killed_process_does_not_keep_it(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(DataFolderInUse):
        DataFolder.open(tmp_path)
    other.kill()
    other.communicate(timeout=30)
    DataFolder.open(tmp_path).close()


def test_a_child_process_does_not_keep_it(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    with subprocess.Popen(["sleep", "60"]) as child:
        folder.close()
        DataFolder.open(tmp_path).close()
        child.kill()


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StartupError, match="file/data cannot be used: Not a directory"):
        DataFolder.open(tmp_path / "file" / "data")
