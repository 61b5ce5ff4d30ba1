"""start_optimized.sh and scripts/setup-venv, in a checkout of their own with a Python that only
writes down what it is asked to do. (The whole installation is run by hand before a release.)"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
HAS_DRIVER = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None

RECORDING_PYTHON = """#!/bin/bash
printf '%s\\n' "$*" >>"$RECORD"
case "$*" in
  *"-m genserve serve"*) env | grep -E '^(PYTORCH|CUDA|OMP|MKL|TORCH|TRITON|MALLOC|HF|TOKEN)' ;;
  *--index-url*) exit "${INDEX_FAILS:-0}" ;;
  *"pip install"*) exit "${PIP_FAILS:-0}" ;;
  *sysconfig*) echo "$PACKAGES" ;;
esac
"""


class Checkout:
    """A copy of what the start script needs, in a folder whose name has spaces."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "my check out"
        (self.root / "scripts").mkdir(parents=True)
        for name in ("start_optimized.sh", "scripts/setup-venv", "requirements.lock"):
            shutil.copy(REPOSITORY / name, self.root / name)
        shutil.copy(REPOSITORY / "pyproject.toml", self.root)
        self.record = folder / "record"
        self.packages = folder / "packages"
        self.packages.mkdir()
        self.python = self.root / ".venv/bin/python"
        self.python.parent.mkdir(parents=True)
        self.python.write_text(RECORDING_PYTHON)
        self.python.chmod(0o755)

    def stamp(self, purpose: str = "server") -> None:
        content = b"".join(
            (self.root / name).read_bytes()
            for name in ("requirements.lock", "pyproject.toml", "scripts/setup-venv")
        )
        digest = hashlib.sha256(content + str(self.root).encode()).hexdigest()
        (self.root / f".venv/.ready-{purpose}").write_text(f"{digest}  -\n")

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "RECORD": str(self.record),
            "PACKAGES": str(self.packages),
            **variables,
        }
        return subprocess.run(
            [str(self.root / command[0]), *command[1:]],
            cwd="/",
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def asked(self) -> list[str]:
        return self.record.read_text().splitlines() if self.record.exists() else []


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_a_prepared_checkout_only_starts_and_passes_its_arguments_on(checkout):
    checkout.stamp()
    done = checkout.run("start_optimized.sh", "--port", "8000", "--config", "a file.yaml")
    assert done.returncode == 0, done.stderr
    assert checkout.asked() == ["-m genserve serve --port 8000 --config a file.yaml"]


def test_help_comes_from_the_real_command(checkout):
    checkout.stamp()
    checkout.python.write_text(
        f'#!/bin/bash\nPYTHONPATH="{REPOSITORY}" exec "{sys.executable}" "$@"\n'
    )
    done = checkout.run("start_optimized.sh", "--help")
    assert done.returncode == 0, done.stderr
    assert "--port" in done.stdout
    assert "--data-dir" in done.stdout


def test_the_environment_has_defaults_and_keeps_what_is_set(checkout):
    checkout.stamp()
    done = checkout.run("start_optimized.sh", MALLOC_ARENA_MAX="7", GENSERVE_DATA_DIR="/some/data")
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert found["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert found["TORCHINDUCTOR_CACHE_DIR"] == "/some/data/cache/torchinductor"
    assert found["TRITON_CACHE_DIR"] == "/some/data/cache/triton"
    assert found["TOKENIZERS_PARALLELISM"] == "false"
    assert found["MALLOC_ARENA_MAX"] == "7"
    assert 1 <= int(found["OMP_NUM_THREADS"]) == int(found["MKL_NUM_THREADS"])


def test_the_compile_cache_lies_in_the_checkout_by_default(checkout):
    checkout.stamp()
    done = checkout.run("start_optimized.sh")
    assert f"TRITON_CACHE_DIR={checkout.root}/data/cache/triton" in done.stdout.splitlines()


def test_a_changed_lock_is_installed_once(checkout):
    checkout.stamp()
    with (checkout.root / "requirements.lock").open("a") as lock:
        lock.write("another==1.0\n")
    assert checkout.run("scripts/setup-venv").returncode == 0
    first = checkout.asked()
    assert any("--requirement /dev/stdin" in line for line in first)
    assert checkout.run("scripts/setup-venv").returncode == 0
    assert checkout.asked() == first
    assert (checkout.packages / "genserve-checkout.pth").read_text() == f"{checkout.root}\n"
    checkout.record.unlink()
    checkout.run(".venv/bin/genserve", "models", "list")
    assert checkout.asked() == ["-m genserve models list"]


def test_what_the_tests_need_includes_what_the_server_needs(checkout):
    checkout.stamp("tests")
    assert checkout.run("scripts/setup-venv").returncode == 0
    assert checkout.asked() == []
    (checkout.root / ".venv/.ready-tests").rename(checkout.root / ".venv/.ready-server")
    assert checkout.run("scripts/setup-venv", "--tests").returncode == 0
    assert checkout.asked() != []


@pytest.mark.parametrize(
    ("variables", "indexes"),
    [
        ({}, ["https://download.pytorch.org/whl/cpu"]),
        ({"GENSERVE_TORCH_INDEX": "http://mirror/cpu"}, ["http://mirror/cpu"]),
        ({"INDEX_FAILS": "1"}, ["https://download.pytorch.org/whl/cpu", None]),
        ({"GENSERVE_TORCH_INDEX": ""}, [None]),
    ],
)
def test_without_a_driver_the_cpu_build_is_preferred(checkout, variables, indexes):
    if HAS_DRIVER:
        indexes = [None]
    assert checkout.run("scripts/setup-venv", **variables).returncode == 0
    torch = [line for line in checkout.asked() if line.endswith("torch==2.13.0")]
    assert len(torch) == len(indexes)
    for line, index in zip(torch, indexes, strict=True):
        assert (f"--index-url {index}" in line) if index else ("--index-url" not in line)


def test_a_failed_install_says_so_and_is_not_taken_for_a_finished_one(checkout):
    failed = checkout.run("start_optimized.sh", PIP_FAILS="1", INDEX_FAILS="1")
    assert failed.returncode == 1
    assert "torch could not be installed" in failed.stderr
    assert "-m genserve serve" not in "\n".join(checkout.asked())
    # The half-made .venv is made anew, which needs a real Python; this one is refused by name.
    again = checkout.run("start_optimized.sh", GENSERVE_PYTHON="/no/such/python")
    assert again.returncode == 1
    assert "GENSERVE_PYTHON=/no/such/python is not Python 3.11 or newer" in again.stderr


def test_a_moved_checkout_is_set_up_again(checkout, tmp_path):
    checkout.stamp()
    moved = tmp_path / "elsewhere"
    checkout.root.rename(moved)
    checkout.root = moved
    assert checkout.run("scripts/setup-venv").returncode == 0
    assert checkout.asked() != []
