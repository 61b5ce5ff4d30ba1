"""What is said of the folders of preprocessors and upscalers."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from genserve.store.tool_weights import SCANS
from genserve.store.weights import ModelFolder

HAS_SPANDREL = find_spec("spandrel") is not None and find_spec("torchvision") is not None


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("depth", "pose", "people"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": name}))
        (folder / "preprocessor_config.json").write_text("{}")
        save_file({"w": numpy.zeros(4, numpy.float32)}, folder / "model.safetensors")
    (tmp_path / "sharp").mkdir()
    save_file({"w": numpy.zeros(4, numpy.float32)}, tmp_path / "sharp" / "sharp.safetensors")
    return tmp_path


def scanned(family: str, folder: Path, **options: str) -> ModelFolder:
    return SCANS[family](folder, options)


def test_whole_folders_are_usable(models: Path) -> None:
    for family, name in (("depth", "depth"), ("openpose", "pose")):
        found = scanned(family, models / name)
        assert (found.present, found.problem) == (True, None)
        assert found.revision
    with_people = scanned("openpose", models / "pose", detector="people")
    assert with_people.problem is None
    assert with_people.revision != scanned("openpose", models / "pose").revision


def test_what_is_not_there_is_not_installed(models: Path) -> None:
    for family in SCANS:
        assert scanned(family, models / "nothing") == ModelFolder(present=False)


@pytest.mark.parametrize(
    ("family", "lost", "words"),
    [
        ("depth", "depth/config.json", "depth/config.json is missing"),
        ("depth", "depth/preprocessor_config.json", "depth/preprocessor_config.json is missing"),
        ("depth", "depth/model.safetensors", "has no .safetensors weights"),
        ("openpose", "pose/config.json", "pose/config.json is missing"),
        ("openpose", "people/model.safetensors", "has no .safetensors weights"),
    ],
)
def test_what_is_missing_is_named(models: Path, family: str, lost: str, words: str) -> None:
    (models / lost).unlink()
    folder = models / {"depth": "depth", "openpose": "pose"}[family]
    options = {"detector": "people"} if family == "openpose" else {}
    problem = scanned(family, folder, **options).problem
    assert problem is not None
    assert words in problem


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        ("nobody", "put it into models/nobody"),
        ("../people", "must be the name of a folder"),
        ("..", "must be the name of a folder"),
    ],
)
def test_a_detector_must_be_a_folder_beside_it(models: Path, detector: str, words: str) -> None:
    problem = scanned("openpose", models / "pose", detector=detector).problem
    assert problem is not None
    assert words in problem


@pytest.mark.parametrize("family", ["depth", "spandrel"])
def test_pickles_are_refused_by_name(models: Path, family: str) -> None:
    folder = models / {"depth": "depth", "spandrel": "sharp"}[family]
    (folder / "4x.pth").write_bytes(b"pickle")
    problem = scanned(family, folder).problem
    assert problem is not None
    assert f"{folder.name}/4x.pth may run code" in problem


class TestUpscalers:
    def test_one_file_is_needed(self, models: Path) -> None:
        save_file({"w": numpy.zeros(4, numpy.float32)}, models / "sharp" / "other.safetensors")
        assert scanned("spandrel", models / "sharp").problem == (
            "sharp holds several .safetensors; leave one there"
        )

    def test_a_broken_file_is_said(self, models: Path) -> None:
        (models / "sharp" / "sharp.safetensors").write_bytes(b"\0" * 40)
        problem = scanned("spandrel", models / "sharp").problem
        assert problem is not None
        assert "sharp/sharp.safetensors" in problem

    @pytest.mark.skipif(HAS_SPANDREL, reason="spandrel is installed")
    def test_without_the_package_the_extra_is_named(self, models: Path) -> None:
        found = scanned("spandrel", models / "sharp")
        assert found.present
        assert found.problem == "it needs spandrel: pip install 'genserve[upscale]'"
