"""The curl examples of the users' API document (§1, §2, §3) as HTTP requests."""

import json
from typing import Any

import httpx2
import pytest

from tests.api.documented import (
    CAT,
    COMMON,
    FORM_EXAMPLES,
    JSON_EXAMPLES,
    LORAS,
    assert_documented,
)
from tests.api.pictures import png, uri
from tests.serving import KEYS, RunningServer


@pytest.mark.parametrize("path", ["/", "/health", "/status", "/models", "/loras"])
@pytest.mark.parametrize("style", ["Authorization", "X-API-Key"])
def test_section_1_information(server: RunningServer, path: str, style: str) -> None:
    key = KEYS["readonly"]
    headers = {style: f"Bearer {key}" if style == "Authorization" else key}
    answer = server.client().get(path, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"


def test_section_1_keys_from_birth_to_death(server: RunningServer) -> None:
    admin = server.client("admin")
    made = admin.post(
        "/auth/generate-key",
        files={"name": (None, "新用户"), "permissions": (None, "generation,readonly")},
    ).json()
    assert made["success"] is True
    assert (made["name"], made["permissions"]) == ("新用户", ["generation", "readonly"])
    assert made["expires_at"] is None
    assert made["key_id"] == f"{made['api_key'][:8]}-{made['api_key'][-4:]}"
    assert server.client(made["api_key"]).get("/status").status_code == 200
    listed = admin.get("/auth/keys")
    assert made["key_id"] in [key["key_id"] for key in listed.json()["keys"]]
    assert made["api_key"] not in listed.text
    gone = admin.post("/auth/delete-key-by-id", files={"key_id": (None, made["key_id"])})
    assert gone.json()["deleted"][0]["name"] == "新用户"
    assert server.client(made["api_key"]).get("/status").status_code == 401
    assert admin.post("/auth/reload-keys").json()["success"] is True


@pytest.mark.parametrize("section", JSON_EXAMPLES)
def test_section_2_1_json(server: RunningServer, section: str) -> None:
    example = JSON_EXAMPLES[section]
    answer = server.client("generation").post("/generate", json=example | COMMON)
    assert_documented(answer, example["prompt"], example["model_id"], example["mode"])


@pytest.mark.parametrize("section", FORM_EXAMPLES)
def test_section_2_2_forms(server: RunningServer, section: str) -> None:
    fields, pictures = FORM_EXAMPLES[section]
    parts: dict[str, Any] = {name: (None, str(text)) for name, text in (fields | COMMON).items()}
    parts |= {name: (f"{name}.png", png(), "image/png") for name in pictures}
    answer = server.client("generation").post("/generate/upload", files=parts)
    assert_documented(answer, fields["prompt"], fields["model_id"], fields["mode"])


def test_sections_2_1_8_and_2_2_5_name_a_lora_that_is_not_there(server: RunningServer) -> None:
    client = server.client("generation")
    in_json = client.post("/generate", json={"prompt": CAT, "loras": LORAS})
    in_form = client.post(
        "/generate/upload",
        files={"prompt": (None, CAT), "loras": (None, json.dumps(LORAS))},
    )
    for answer in (in_json, in_form):
        assert answer.status_code == 400
        assert answer.json()["code"] == "unknown_lora"
        assert "cute_cat_lora" in answer.json()["detail"]


def test_section_3_task(server: RunningServer) -> None:
    client = server.client("generation")
    made = client.post("/generate", json={"prompt": "一只可爱的小猫", "mode": "text2img"}).json()
    task = client.get(f"/task/{made['task_id']}").json()
    assert task["status"] == "completed"
    assert task["image"] == made["image"]
    assert task["metadata"] == made["metadata"]


def test_section_5_3_is_answered_in_the_documents_words(server: RunningServer) -> None:
    answer = httpx2.get(f"{server.base_url}/status", trust_env=False)
    assert answer.status_code == 401
    assert answer.json() == {
        "detail": "缺少API密钥。"
        "请在Authorization header中使用Bearer token或在X-API-Key header中提供密钥"
    }
    assert answer.headers["www-authenticate"] == 'Bearer realm="GenServe"'


def test_a_picture_may_be_raw_base64_or_a_data_uri_in_a_form(server: RunningServer) -> None:
    client = server.client("generation")
    for text in (uri(png()), uri(png()).partition(",")[2]):
        parts = {"prompt": (None, "x"), "mode": (None, "img2img"), "input_image": (None, text)}
        parts |= {"width": (None, "64"), "height": (None, "64")}
        assert client.post("/generate/upload", files=parts).status_code == 200
