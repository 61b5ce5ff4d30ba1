"""The description is true: it is complete, says who may call what, and real answers fit it."""

import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel

from genserve.api.dialects import native_docs, native_docs_info
from tests.api.test_generate import ask
from tests.serving import RunningServer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def schema(server: RunningServer) -> Any:
    return server.client().get("/openapi.json").json()


def test_every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(schema)))
    assert {"GenerateBody", "UploadForm", "Generated", "Error", "AuthError", "NewKeyBody"} <= names
    assert names <= schema["components"]["schemas"].keys()


def test_every_operation_tells_permissions_and_errors(schema: dict[str, Any]) -> None:
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert operation["description"], path
            assert "default" in operation["responses"], path
            if operation["security"] and {} not in operation["security"]:
                assert operation["x-permissions"], path
                assert {"401", "403"} <= operation["responses"].keys(), path
    assert schema["paths"]["/auth/keys"]["get"]["x-permissions"] == ["admin"]
    assert schema["paths"]["/generate"]["post"]["x-permissions"] == ["generation"]
    assert schema["paths"]["/healthz"]["get"]["security"] == []


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", "docs/api.md"])
@pytest.mark.parametrize("permission", ["generation", "readonly"])
def test_the_tables_of_permissions_name_every_path(
    schema: dict[str, Any], name: str, permission: str
) -> None:
    """But for tasks, which are said in words."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    (row,) = (line for line in lines if line.startswith(f"| `{permission}` |"))
    allowed = {
        path
        for path, operations in schema["paths"].items()
        for operation in operations.values()
        if operation.get("x-permissions") == [permission] and not path.startswith("/task")
    }
    assert len(allowed) > 2
    assert [path for path in sorted(allowed) if f"`{path}`" not in row] == []


def test_the_documented_fields_and_defaults_are_in_it(schema: dict[str, Any]) -> None:
    body = schema["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]
    choices = [choice["$ref"].rpartition("/")[2] for choice in body["schema"]["oneOf"]]
    assert choices == ["GenerateBody", "UpscaleBody"]
    fields = schema["components"]["schemas"]["GenerateBody"]["properties"]
    defaults = {name: field.get("default") for name, field in fields.items()}
    assert defaults["model_id"] == "flux1-dev"
    assert [defaults[name] for name in ("height", "width", "num_inference_steps")] == [
        1024,
        1024,
        50,
    ]
    assert [defaults[name] for name in ("cfg", "seed", "priority", "mode")] == [
        3.5,
        42,
        0,
        "text2img",
    ]
    assert {"negative_prompt", "scheduler", "num_images", "output_format", "async"} <= fields.keys()
    assert fields["num_inference_steps"]["maximum"] == 100
    upload = schema["components"]["schemas"]["UploadForm"]["properties"]
    assert (upload["input_image"]["type"], upload["input_image"]["format"]) == ("string", "binary")


def test_real_answers_fit_their_models(server: RunningServer) -> None:
    client, admin = server.client("both"), server.client("admin")
    generated = client.post("/generate", json=ask())
    task_id = generated.json()["task_id"]
    failed = client.post("/generate", json=ask("fake:error"))
    key = admin.post("/auth/generate-key", json={"name": "x", "permissions": ["readonly"]})
    deleted = admin.post("/auth/delete-key-by-id", json={"key_id": key.json()["key_id"]})
    accepted = client.post("/generate", json=ask() | {"async": True})
    pending = client.get(f"/task/{accepted.json()['task_id']}")
    answers: list[tuple[type[BaseModel], httpx2.Response]] = [
        (native_docs.Generated, generated),
        (native_docs.Error, failed),
        (native_docs.AuthError, server.client().get("/status")),
        (native_docs.Accepted, accepted),
        (native_docs.TaskAnswer, pending),
        (native_docs.TaskAnswer, client.get(f"/task/{task_id}")),
        (native_docs.TaskAnswer, client.get(f"/task/{failed.json()['task_id']}")),
        (native_docs.TaskList, client.get("/tasks")),
        (native_docs.TaskSummary, client.post(f"/task/{accepted.json()['task_id']}/cancel")),
        (native_docs_info.Welcome, client.get("/")),
        (native_docs_info.Health, client.get("/health")),
        (native_docs_info.Health, server.client().get("/health")),
        (native_docs_info.Status, client.get("/status")),
        (native_docs_info.ModelList, client.get("/models")),
        (native_docs_info.LoraList, client.get("/loras")),
        (native_docs_info.KeyList, admin.get("/auth/keys")),
        (native_docs_info.NewKey, key),
        (native_docs_info.DeletedKeys, deleted),
        (native_docs_info.ReloadedKeys, admin.post("/auth/reload-keys")),
        (native_docs_info.Ready, server.client().get("/readyz")),
        (native_docs_info.Alive, server.client().get("/healthz")),
    ]
    for model, answer in answers:
        if answer.status_code != 409:  # the task may have ended before it could be cancelled
            model.model_validate_json(answer.content)


def test_the_page_for_people_loads_nothing_from_elsewhere(server: RunningServer) -> None:
    answer = server.client().get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", answer.text)
    for words in ("POST /generate", "num_inference_steps", "needs", "generation"):
        assert words in answer.text
