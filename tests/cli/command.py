"""Runs `genserve` as its users do: in a process of its own, in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_S = 150
FAKE: dict[str, Any] = {
    "pool": {"devices": "cpu:1", "threads": 1},
    "api": {"rate_limit": "100000/minute"},
    "models": {"fake": {"family": "fake", "multiple_of": 8}},
}
"""Settings with the fake family, one CPU worker, and no limit that polling would meet."""


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without any setting of GenServe's, plus `variables`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GENSERVE_", "API_KEY", "DEFAULT_API_KEY"))
    }
    return {**kept, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200", **variables}


def genserve(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The finished command, run in `folder` with `variables` in its environment."""
    return subprocess.run(
        [sys.executable, "-m", "genserve", *arguments],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def write_config(folder: Path, settings: dict[str, Any]) -> Path:
    """A config.yaml in `folder`, found there by the commands."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """What the command said on stderr: one line, and no traceback."""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("genserve: ")
    return lines[0].removeprefix("genserve: ")
