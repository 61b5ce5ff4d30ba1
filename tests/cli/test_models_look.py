"""`genserve models info` and `rm` of folders that are not whole, or that others need."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import genserve, write_config
from tests.outbound.repositories import INDEX, pipeline, wanted

DIFFUSION = INDEX | {
    "_class_name": "StableDiffusionPipeline",
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
}
MODELS: dict[str, Any] = {
    "dev": {"family": "flux"},
    "finetune": {"family": "flux", "base": "dev"},
    "absent": {"family": "flux", "base": "dev"},
    "sd": {"family": "sd15"},
}
NOBODY = {"port": 1}
"""Where no server runs."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The models folder: a whole one, a finetune of it that is its transformer alone, and SD."""
    write_config(tmp_path, {"server": NOBODY, "models": MODELS})
    folder = tmp_path / "models"
    write(folder / "dev", wanted(pipeline()))
    write(folder / "finetune", wanted(pipeline()))
    for name in ("scheduler", "tokenizer", "vae"):
        shutil.rmtree(folder / "finetune" / name)
    write(folder / "sd", wanted(pipeline({"model_index.json": json.dumps(DIFFUSION).encode()})))
    return folder


def write(folder: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def info(models: Path, name: str) -> Any:
    done = genserve(models.parent, "models", "info", name, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_info_shows_what_a_partial_folder_has_and_what_its_base_lends(models: Path):
    shown = info(models, "finetune")
    assert (shown["installed"], shown["problem"]) == (True, None)
    parts = {part["component"]: part for part in shown["components"]}
    lent = {name: part["lent_by"] for name, part in parts.items()}
    assert lent == {"scheduler": "dev", "tokenizer": "dev", "transformer": None, "vae": "dev"}
    assert len(parts["transformer"]["weights"]) == 2
    assert (parts["vae"]["size_bytes"], parts["vae"]["weights"]) == (0, [])
    table = genserve(models.parent, "models", "info", "finetune").stdout.splitlines()
    assert table[-5].endswith("lent by")
    assert table[-1].split() == ["vae", "AutoencoderKL", "-", "-", "-", "-", "dev"]
    whole = genserve(models.parent, "models", "info", "dev").stdout
    assert "lent by" not in whole


def test_info_of_a_folder_that_no_base_completes_shows_what_is_there(models: Path):
    (models / "finetune").rename(models / "unconfigured")
    shown = info(models, "unconfigured")
    assert shown["installed"] is False
    assert shown["problem"] == "unconfigured/scheduler is missing; download the whole model"
    assert [part["component"] for part in shown["components"]] == ["transformer"]


def test_info_of_a_broken_index_says_so(models: Path):
    (models / "dev" / "model_index.json").write_text("{")
    shown = info(models, "dev")
    assert (shown["installed"], shown["components"]) == (False, [])
    assert "model_index.json is not JSON" in shown["problem"]


def test_info_does_not_miss_a_safety_checker(models: Path):
    shown = info(models, "sd")
    assert (shown["installed"], shown["problem"]) == (True, None)
    parts = [part["component"] for part in shown["components"]]
    assert parts == ["scheduler", "tokenizer", "transformer", "vae"]


def test_rm_says_what_else_is_drawn_with_it(models: Path):
    done = genserve(models.parent, "models", "rm", "dev", "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["other models are drawn with it: finetune"]
    alone = genserve(models.parent, "models", "rm", "finetune", "--yes")
    assert (alone.returncode, alone.stderr) == (0, "")


def test_rm_deletes_what_a_killed_one_left(models: Path):
    (models / ".pulls" / ".removed-dev-1").mkdir(parents=True)
    (models / "dev").rename(models / ".pulls" / ".removed-dev-1" / "dev")
    done = genserve(models.parent, "models", "rm", "dev", "--yes")
    assert "nothing of that name" in done.stderr
    assert list((models / ".pulls").iterdir()) == []
