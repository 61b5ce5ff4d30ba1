"""POST /models/rescan: who may, and what it tells of weights that came, changed and went."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genserve.api.dialects import native_docs_info
from tests.api.test_generate import ask
from tests.core.test_catalog import install
from tests.core.test_live_catalog import lora
from tests.serving import RunningServer, serving

FAKE = {"family": "fake", "multiple_of": 8}
LISTS = ("added", "removed", "changed", "broken")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "loras").mkdir()
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[RunningServer]:
    models = {
        "flux1-dev": FAKE | {"loras": True, "lora_base": "flux"},
        "missing-dev": {"family": "flux"},
    }
    with serving(folder, models=models) as running:
        yield running


def rescan(server: RunningServer) -> dict[str, list[dict[str, Any]]]:
    answer = server.client("admin").post("/models/rescan")
    assert answer.status_code == 200
    native_docs_info.Rescanned.model_validate_json(answer.content)
    told: dict[str, list[dict[str, Any]]] = answer.json()
    return {name: told[name] for name in LISTS}


def named(items: list[dict[str, Any]]) -> list[tuple[str, str, bool]]:
    return [(item["kind"], item["name"], item["available"]) for item in items]


def test_a_model_and_a_lora_come_are_broken_and_go(server: RunningServer, folder: Path) -> None:
    reader, place = server.client("readonly"), folder / "models" / "missing-dev"
    assert rescan(server) == {name: [] for name in LISTS}
    install(place)
    lora(folder, "night")
    told = rescan(server)
    assert named(told["added"]) == [("model", "missing-dev", True), ("lora", "night", True)]
    shown = {model["id"]: model for model in reader.get("/models").json()["models"]}
    assert (shown["missing-dev"]["installed"], shown["missing-dev"]["available"]) == (True, True)
    assert [one["name"] for one in reader.get("/loras").json()["loras"]] == ["night"]

    (place / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"{")
    told = rescan(server)
    assert named(told["changed"]) == named(told["broken"]) == [("model", "missing-dev", False)]
    problem = told["broken"][0]["problem"]
    assert "missing-dev/transformer/diffusion_pytorch_model.safetensors" in problem
    assert "download it again" in problem
    answer = server.client("generation").post("/generate", json=ask(model_id="missing-dev"))
    assert (answer.status_code, answer.json()["code"]) == (400, "model_broken")

    shutil.rmtree(place)
    told = rescan(server)
    assert (named(told["removed"]), told["broken"]) == ([("model", "missing-dev", False)], [])


def test_a_lora_that_was_just_put_there_is_found_by_its_request(
    server: RunningServer, folder: Path
) -> None:
    client = server.client("generation")
    wanted = ask(loras=[{"name": "night"}])
    lora(folder, "night")
    assert client.post("/generate", json=wanted).status_code == 200
    whole = (folder / "loras" / "night.safetensors").read_bytes()
    (folder / "loras" / "night.safetensors").write_bytes(whole[:-1])
    answer = client.post("/generate", json=wanted)
    assert (answer.status_code, answer.json()["code"]) == (400, "lora_broken")
    (folder / "loras" / "night.safetensors").write_bytes(whole)
    assert client.post("/generate", json=wanted).status_code == 200
    (folder / "loras" / "night.safetensors").unlink()
    answer = client.post("/generate", json=wanted)
    assert (answer.status_code, answer.json()["code"]) == (400, "unknown_lora")


def test_a_folder_that_cannot_be_read_is_told_and_nothing_changes(
    server: RunningServer, folder: Path
) -> None:
    lora(folder, "night")
    rescan(server)
    shutil.rmtree(folder / "loras")
    (folder / "loras").symlink_to("x" * 300)  # no file can be called so: not even root can look
    answer = server.client("admin").post("/models/rescan")
    assert (answer.status_code, answer.json()["code"]) == (503, "weights_unreadable")
    assert answer.headers["Retry-After"] == "10"
    assert str(folder / "loras") in answer.json()["detail"]
    assert len(server.client("readonly").get("/loras").json()["loras"]) == 1


@pytest.mark.parametrize(("key", "status"), [("readonly", 403), ("generation", 403), (None, 401)])
def test_only_an_admin_may(server: RunningServer, key: str | None, status: int) -> None:
    assert server.client(key).post("/models/rescan").status_code == status
