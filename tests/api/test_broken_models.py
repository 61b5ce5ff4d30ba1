"""Models that lie broken in the folder: the server starts, says what to do, and others draw."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.pictures import opened
from tests.api.test_bad_input import LEAKS
from tests.api.test_generate import ask
from tests.serving import RunningServer, serving

SHIPPED = Path(__file__).parents[2] / "models" / "tiny-flux-dev"
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
FAKE = {"family": "fake", "multiple_of": 8}


def without_vae(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def without_weights(folder: Path) -> None:
    (folder / TRANSFORMER).unlink()


def with_a_pickle(folder: Path) -> None:
    (folder / "v1-5.ckpt").write_bytes(b"\x80\x04.")


def with_a_link(folder: Path) -> None:
    """Out of models/, to a file that is right."""
    outside = folder.parents[1] / "elsewhere.safetensors"
    (folder / TRANSFORMER).rename(outside)
    (folder / TRANSFORMER).symlink_to(outside)


def cut_off(folder: Path) -> None:
    with (folder / TRANSFORMER).open("r+b") as file:
        file.truncate((folder / TRANSFORMER).stat().st_size - 5)


def nothing_but_a_pickle(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    with_a_pickle(folder)


Broken = tuple[Callable[[Path], None], dict[str, Any], tuple[str, str]]
BROKEN: dict[str, Broken] = {
    "no-vae": (without_vae, {}, ("no-vae/vae is missing", "download the whole model")),
    "no-weights": (
        without_weights,
        {},
        ("no-weights/transformer has no .safetensors weights", "add them"),
    ),
    "pickle": (with_a_pickle, {}, ("pickle/v1-5.ckpt", "delete it and use safetensors weights")),
    "checkpoint": (
        nothing_but_a_pickle,
        {"family": "sd15"},
        ("checkpoint/v1-5.ckpt", "delete it and use safetensors weights"),
    ),
    "link": (
        with_a_link,
        {},
        (f"link/{TRANSFORMER} is a link that leads outside", "put the file itself there"),
    ),
    "cut-off": (
        cut_off,
        {},
        (f"cut-off/{TRANSFORMER} is incomplete: 5 bytes are missing", "download it again"),
    ),
}
"""How each model is broken, its configuration, and what is said of it: the file, and the remedy."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The shipped Flux model once for each way to break it, beside one model that is right."""
    folder = tmp_path_factory.mktemp("broken")
    models: dict[str, dict[str, Any]] = {"flux1-dev": FAKE}
    for name, (damage, settings, _) in BROKEN.items():
        shutil.copytree(SHIPPED, folder / "models" / name)
        damage(folder / "models" / name)
        models[name] = {"family": "flux"} | settings
    with serving(folder, models=models) as running:
        yield running


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_is_refused_and_another_draws(server: RunningServer, name: str) -> None:
    _, _, told = BROKEN[name]
    client = server.client("generation")
    answer = client.post("/generate", json=ask(model_id=name))
    content = answer.json()
    assert (answer.status_code, content["code"]) == (400, "model_broken")
    assert all(words in content["detail"] for words in told), content["detail"]
    assert not LEAKS.search(answer.text), answer.text
    assert str(server.config.models_dir) not in answer.text
    drawn = client.post("/generate", json=ask())
    assert drawn.status_code == 200
    assert opened(drawn.json()["image"]).size == (64, 64)


@pytest.mark.parametrize("name", BROKEN)
def test_the_list_of_models_says_why_it_cannot_be_used(server: RunningServer, name: str) -> None:
    _, _, told = BROKEN[name]
    answer = server.client("readonly").get("/models")
    shown = {model["id"]: model for model in answer.json()["models"]}
    assert (shown[name]["installed"], shown[name]["available"]) == (False, False)
    assert all(words in shown[name]["problem"] for words in told), shown[name]["problem"]
    assert shown["flux1-dev"]["available"]
    assert not LEAKS.search(answer.text), answer.text


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut_off, ("late/transformer", "is incomplete", "download it again")),
        (
            lambda folder: (folder / "vae" / "config.json").write_text("{}"),
            ("one of its files is broken", "download it again"),
        ),
    ],
)
def test_files_that_break_after_the_start_are_told_by_the_task(
    tmp_path: Path, damage: Callable[[Path], object], told: tuple[str, ...]
) -> None:
    shutil.copytree(SHIPPED, tmp_path / "models" / "late")
    with serving(tmp_path, models={"flux1-dev": FAKE, "late": {"family": "flux"}}) as running:
        damage(tmp_path / "models" / "late")
        client = running.client("generation")
        answer = client.post("/generate", json=ask(model_id="late"))
        content = answer.json()
        assert (answer.status_code, content["code"]) == (400, "model_broken")
        assert all(words in content["detail"] for words in told), content["detail"]
        assert not LEAKS.search(answer.text), answer.text
        assert client.post("/generate", json=ask()).status_code == 200
