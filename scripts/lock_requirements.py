"""Writes requirements.lock: every package of the server, then those that only the tests need.

pip's own resolver decides, from the floors in pyproject.toml, as if nothing were installed. What
belongs to one machine stays out, so that the file serves all: CUDA libraries (torch brings the
right ones), local versions as `+cpu`, URLs and hashes.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
PIP = ("-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet")
OF_ONE_MACHINE = re.compile(r"nvidia-(?!ml-py)|cuda-|triton|pytorch-triton")
CHOSEN = ["torch==2.13.0"]
"""Versions chosen by hand: another torch draws other pixels, so it comes with new references."""
HEAD = """\
# Every package, with its version. Written by scripts/lock; do not edit.
# --- the server
"""
TESTS = "# --- the tests\n"


def resolved(requirements: list[str]) -> dict[str, str]:
    """Name → version of everything that `requirements` bring, without local version parts."""
    report = subprocess.run(
        [sys.executable, *PIP, "--only-binary=:all:", "--report=-", *CHOSEN, *requirements],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    packages = (entry["metadata"] for entry in json.loads(report)["install"])
    return {
        normalised(package["name"]): package["version"].partition("+")[0]
        for package in packages
        if not OF_ONE_MACHINE.match(normalised(package["name"]))
    }


def normalised(name: str) -> str:
    """A package's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lines(packages: dict[str, str]) -> str:
    """The packages as a requirements file has them."""
    return "".join(f"{name}=={packages[name]}\n" for name in sorted(packages))


def main() -> None:
    """Resolve both sets and write the file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    server = project["dependencies"]
    everything = resolved([*server, *project["optional-dependencies"]["test"]])
    needed = {name: everything[name] for name in resolved(server)}
    tests = {name: version for name, version in everything.items() if name not in needed}
    LOCK.write_text(HEAD + lines(needed) + TESTS + lines(tests), encoding="utf-8")
    print(f"{LOCK.name}: {len(needed)} packages for the server, {len(tests)} for the tests")


if __name__ == "__main__":
    main()
