"""POST /models/{id}/load and /unload: who may, what each worker did, and what is told of it."""

from collections.abc import Iterator

import pytest

from genserve.api.dialects import native_docs_info
from tests.serving import RunningServer, serving

FAKE = {"family": "fake", "multiple_of": 8}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    models = {
        "flux1-dev": {"family": "flux", "stand_in": "small"},
        "small": FAKE,
        "broken": FAKE | {"options": {"on_load": "error"}},
        "missing": {"family": "flux"},
    }
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, models=models, pool={"devices": "cpu:2", "threads": 1}) as running:
        yield running


def outcomes(answer: dict[str, list[dict[str, str]]]) -> list[str]:
    return [worker["outcome"] for worker in answer["workers"]]


def test_a_model_is_loaded_shown_and_unloaded(server: RunningServer) -> None:
    admin, reader = server.client("admin"), server.client("readonly")
    loaded = admin.post("/models/flux1-dev/load")
    assert loaded.status_code == 200
    native_docs_info.LoadedModel.model_validate_json(loaded.content)
    told = loaded.json()
    assert (told["success"], told["model_id"], told["served_by"]) == (True, "flux1-dev", "small")
    assert set(outcomes(told)) <= {"loaded", "queued"}  # queued: that worker is still starting
    again = admin.post("/models/small/load").json()
    assert set(outcomes(again)) <= {"already_loaded", "loaded", "queued"}
    while len(reader.get("/models").json()["models"][0]["loaded_on"]) < 2:
        pass
    shown = {model["id"]: model for model in reader.get("/models").json()["models"]}
    assert shown["flux1-dev"]["loaded_on"] == shown["small"]["loaded_on"] == ["cpu-0", "cpu-1"]
    assert (shown["flux1-dev"]["loaded"], shown["broken"]["loaded"]) == (True, False)
    workers = reader.get("/status").json()["workers"]
    assert [(worker["loaded"], worker["loading"]) for worker in workers] == [(["small"], None)] * 2
    unloaded = admin.post("/models/flux1-dev/unload")
    native_docs_info.LoadedModel.model_validate_json(unloaded.content)
    assert outcomes(unloaded.json()) == ["unloaded", "unloaded"]
    assert outcomes(admin.post("/models/flux1-dev/unload").json()) == ["not_loaded", "not_loaded"]
    assert not any(model["loaded"] for model in reader.get("/models").json()["models"])


def test_it_can_be_asked_for_without_waiting(server: RunningServer) -> None:
    admin = server.client("admin", Prefer="respond-async")
    answer = admin.post("/models/small/load")
    assert answer.status_code == 202
    assert set(outcomes(answer.json())) <= {"loading", "already_loaded", "queued"}


@pytest.mark.parametrize(
    ("model", "verb", "code"),
    [
        ("no-such-model", "load", "unknown_model"),
        ("no-such-model", "unload", "unknown_model"),
        ("missing", "load", "model_not_installed"),
        ("broken", "load", "model_broken"),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_name(
    server: RunningServer, model: str, verb: str, code: str
) -> None:
    answer = server.client("admin").post(f"/models/{model}/{verb}")
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert model in answer.json()["detail"]


def test_what_is_not_installed_is_not_loaded(server: RunningServer) -> None:
    answer = server.client("admin").post("/models/missing/unload").json()
    assert outcomes(answer) == ["not_loaded", "not_loaded"]


@pytest.mark.parametrize("verb", ["load", "unload"])
@pytest.mark.parametrize(("key", "status"), [("readonly", 403), ("generation", 403), (None, 401)])
def test_only_an_admin_may(server: RunningServer, verb: str, key: str | None, status: int) -> None:
    assert server.client(key).post(f"/models/small/{verb}").status_code == status
