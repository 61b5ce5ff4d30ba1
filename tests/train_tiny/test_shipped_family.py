"""What ships beside tiny-flux-dev: each member meets its targets, and together they fit git."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from train_tiny.member_figures import MEASURES, Measure
from train_tiny.members import FLUX_MEMBERS
from train_tiny.sd_member import SD_CONTROLS, SD_TARGETS
from train_tiny.sd_painting import SD_MEASURE
from train_tiny.style_figures import missed_style_targets

ROOT = Path(__file__).resolve().parents[2]
LARGEST_BYTES = 30_000_000
MEASURED: Mapping[str, Measure] = {
    **{name: MEASURES[member.kind] for name, member in FLUX_MEMBERS.items()},
    **{name: MEASURES[member.kind] for name, member in SD_CONTROLS.items()},
}


def shipped(folder: str) -> Path:
    path = ROOT / folder
    assert (path / "figures.json").is_file(), (
        f"{folder}/figures.json is missing: get {folder} back from git, or train it by"
        " scripts/train_tiny/train.py"
    )
    return path


def figures_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    return content


def test_the_whole_family_fits_in_thirty_megabytes() -> None:
    """In git, which keeps equal files once: tiny-sdxl has the VAE of tiny-sd15."""
    folders = [*ROOT.glob("models/tiny-*"), ROOT / "loras"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    sizes = {hashlib.sha256(path.read_bytes()).digest(): path.stat().st_size for path in files}
    assert sum(sizes.values()) <= LARGEST_BYTES


@pytest.mark.parametrize("name", MEASURED)
def test_members_meet_every_target(name: str) -> None:
    content = figures_of(shipped(f"models/tiny-{name}"))
    assert MEASURED[name].missed(content["figures"]) == content["missed"] == []
    assert content["samples"] >= 50


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_stable_diffusion_meets_every_target(name: str) -> None:
    content = figures_of(shipped(f"models/tiny-{name}"))
    measure = replace(SD_MEASURE, targets=SD_TARGETS)
    assert measure.missed(content["figures"]) == content["missed"] == []


def test_loras_meet_every_target() -> None:
    content = figures_of(shipped("loras"))
    assert missed_style_targets(content["figures"]) == content["missed"] == []


@pytest.mark.parametrize("name", [*MEASURED, "sd15", "sdxl"])
def test_members_name_no_place_on_a_disk(name: str) -> None:
    for path in shipped(f"models/tiny-{name}").rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert "name_or_path" not in text, path
        assert "/tmp" not in text, path


@pytest.mark.parametrize("name", [*MEASURED, "sd15", "sdxl"])
def test_cards_show_samples_and_figures(name: str) -> None:
    folder = shipped(f"models/tiny-{name}")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert (folder / "samples.png").is_file()
    assert "## Figures" in card
    assert f"train.py {name} --seed 0" in card
