"""/auth/*: three ways to send a body, and what deleting refuses."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from genserve.config import Config
from genserve.errors import ConfigError
from tests.serving import KEYS, RunningServer, serving

FIELDS = {"name": "小明", "permissions": "generation,readonly"}
FIELDS_JSON = {"name": "小明", "permissions": ["generation", "readonly"]}


def send(client: httpx2.Client, path: str, how: str, **fields: str) -> httpx2.Response:
    if how == "json":
        return client.post(path, json=fields)
    if how == "form":
        return client.post(path, files={name: (None, text) for name, text in fields.items()})
    if how == "urlencoded":
        return client.post(path, data=fields)
    body = "&".join(f"{name}={text}" for name, text in fields.items())  # as curl -d sends it
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    return client.post(path, content=body.encode(), headers=kind)


@pytest.mark.parametrize("how", ["json", "form", "urlencoded", "curl -d"])
def test_every_kind_of_body(server: RunningServer, how: str) -> None:
    admin = server.client("admin")
    made = send(admin, "/auth/generate-key", how, **FIELDS).json()
    assert (made["name"], made["permissions"]) == ("小明", ["generation", "readonly"])
    gone = send(admin, "/auth/delete-key", how, api_key=made["api_key"]).json()
    assert [key["key_id"] for key in gone["deleted"]] == [made["key_id"]]
    assert server.client(made["api_key"]).get("/tasks").status_code == 401


def test_a_new_key_is_shown_once_and_never_cached(server: RunningServer) -> None:
    admin = server.client("admin")
    answer = admin.post("/auth/generate-key", json={"name": "a", "permissions": ["readonly"]})
    made = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert {"success", "api_key", "key_id", "name", "permissions", "expires_at"} <= made.keys()
    assert made["api_key"].startswith("gs_")
    assert len(made["api_key"]) == 52
    assert made["api_key"] not in admin.get("/auth/keys").text


def test_a_key_is_listed_with_its_last_use(server: RunningServer) -> None:
    keys = server.client("admin").get("/auth/keys").json()
    assert keys["total"] == len(keys["keys"])
    by_name = {key["name"]: key for key in keys["keys"]}
    assert by_name["admin"]["last_used_at"] is not None
    assert by_name["all"]["source"] == "API_KEY_5"
    assert all(key not in str(keys) for key in KEYS.values())


def test_keys_can_expire_and_have_an_owner(server: RunningServer) -> None:
    admin = server.client("admin")
    fields = {"name": "b", "permissions": "readonly", "owner": "team", "expires_at": "2999-01-01"}
    made = admin.post("/auth/generate-key", data=fields).json()
    assert made["expires_at"].startswith("2999-01-01T00:00:00")
    assert made["owner"] == "team"
    late = admin.post("/auth/generate-key", data=fields | {"expires_at": "2001-01-01"})
    assert (late.status_code, late.json()["code"]) == (422, "validation_error")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "name: is required"),
        ({"name": "x"}, "permissions: is required"),
        ({"name": " ", "permissions": "all"}, "name: must not be empty"),
        ({"name": "x", "permissions": "root"}, "permissions.0: must be one of"),
        ({"name": "x", "permissions": ""}, "permissions"),
        ({"name": "x", "permissions": "all", "expires_at": "soon"}, "expires_at: must be a time"),
        ({"name": "x", "permissions": "all", "admin": "1"}, "admin: is not a field"),
    ],
)
def test_wrong_fields_are_named(server: RunningServer, fields: dict[str, Any], words: str) -> None:
    answer = server.client("admin").post("/auth/generate-key", data=fields)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "fields", "status", "code"),
    [
        ("/auth/delete-key", {"api_key": "no-such-key-here"}, 404, "key_not_found"),
        ("/auth/delete-key", {"api_key": KEYS["both"]}, 409, "key_is_declared"),
        ("/auth/delete-key", {}, 422, "validation_error"),
        ("/auth/delete-key-by-id", {"key_id": "nothing!-here"}, 404, "key_not_found"),
        ("/auth/delete-key-by-name", {"name": "nobody"}, 404, "key_not_found"),
        ("/auth/delete-key-by-name", {"name": "both"}, 409, "key_is_declared"),
    ],
)
def test_what_cannot_be_deleted(
    server: RunningServer, path: str, fields: dict[str, str], status: int, code: str
) -> None:
    answer = server.client("admin").post(path, data=fields)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    if code == "key_is_declared":
        assert "API_KEY_3" in answer.json()["detail"]


def test_two_keys_of_one_name_are_left_alone(server: RunningServer) -> None:
    admin = server.client("admin")
    fields = {"name": "twin", "permissions": "readonly"}
    twins = [admin.post("/auth/generate-key", data=fields).json() for _ in range(2)]
    refused = admin.post("/auth/delete-key-by-name", data={"name": "twin"})
    assert (refused.status_code, refused.json()["code"]) == (409, "ambiguous_key")
    assert server.client(twins[0]["api_key"]).get("/status").status_code == 200
    for twin in twins:
        assert admin.post("/auth/delete-key-by-id", data={"key_id": twin["key_id"]}).is_success


def test_reload_says_what_changed(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        client = server.client("all")
        answer = client.post("/auth/reload-keys").json()
        assert (answer["success"], answer["added"], answer["revoked"]) == (True, [], [])
        assert answer["unchanged"] == len(KEYS)
        fewer = server.config.keys.model_copy(update={"declared": server.config.keys.declared[1:]})
        server.reread = lambda: server.config.model_copy(update={"keys": fewer})
        assert len(client.post("/auth/reload-keys").json()["revoked"]) == 1
        assert server.client("generation").get("/tasks").status_code == 401


def test_a_broken_configuration_is_told_and_changes_nothing(tmp_path: Path) -> None:
    def broken() -> Config:
        raise ConfigError(problem="API_KEY_1 must be key:name:permissions")

    with serving(tmp_path) as server:
        server.reread = broken
        answer = server.client("all").post("/auth/reload-keys")
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert "API_KEY_1" in answer.json()["detail"]
        assert server.client("readonly").get("/status").status_code == 200


class TestIdempotency:
    """A lost answer can be asked for again."""

    def test_the_same_key_again(self, server: RunningServer) -> None:
        admin = server.client("admin", **{"Idempotency-Key": "a new key"})
        first, again = (admin.post("/auth/generate-key", json=FIELDS_JSON) for _ in range(2))
        assert first.status_code == again.status_code == 200
        assert "Idempotency-Replayed" not in first.headers
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.headers["Cache-Control"] == "no-store"
        assert again.json() == first.json()
        assert server.client(again.json()["api_key"]).get("/tasks").status_code == 200

    def test_another_body(self, server: RunningServer) -> None:
        admin = server.client("admin", **{"Idempotency-Key": "for one body"})
        admin.post("/auth/generate-key", json=FIELDS_JSON)
        answer = admin.post("/auth/generate-key", json=FIELDS_JSON | {"name": "else"})
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")

    def test_a_deleted_key(self, server: RunningServer) -> None:
        admin = server.client("admin", **{"Idempotency-Key": "soon gone"})
        made = admin.post("/auth/generate-key", json=FIELDS_JSON).json()
        admin.post("/auth/delete-key-by-id", json={"key_id": made["key_id"]})
        answer = admin.post("/auth/generate-key", json=FIELDS_JSON)
        assert (answer.status_code, answer.json()["code"]) == (409, "issued_key_deleted")

    def test_one_that_cannot_be_kept(self, server: RunningServer) -> None:
        admin = server.client("admin", **{"Idempotency-Key": "x" * 256})
        answer = admin.post("/auth/generate-key", json=FIELDS_JSON)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
