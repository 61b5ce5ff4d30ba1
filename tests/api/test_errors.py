"""What is answered when nothing fits: shapes, languages, ids, and no inner words."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI, Request, Response
from starlette.testclient import TestClient

from genserve.api.app import create_app
from genserve.api.auth import Anyone
from genserve.api.dialects.native_route import NativeRoute
from tests.api.test_generate import ask, until
from tests.serving import RunningServer, serving

SHAPE = {"success", "error", "detail", "code", "task_id"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing/here", 404, "not_found"),
        ("GET", "/generate/", 404, "not_found"),
        ("DELETE", "/generate", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("OPTIONS", "/generate", 405, "method_not_allowed"),
        ("GET", "/images/..%2f..%2fconfig.yaml", 404, "not_found"),
        ("GET", "/images/x.png", 404, "image_not_found"),
    ],
)
def test_what_no_route_serves(
    server: RunningServer, method: str, path: str, status: int, code: str
) -> None:
    answer = server.client().request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json().keys() == SHAPE
    assert answer.headers.get("allow", "") == {
        "DELETE": "POST",
        "POST": "GET",
        "OPTIONS": "POST",
    }.get(method, "")


def test_errors_speak_chinese_unless_english_is_preferred(server: RunningServer) -> None:
    url = f"{server.base_url}/nothing"
    assert httpx2.get(url, trust_env=False).json()["error"] == "未找到"
    english = httpx2.get(url, headers={"Accept-Language": "en-US,en;q=0.9"}, trust_env=False)
    assert english.json()["error"] == "Not found"


def test_request_ids_are_kept_when_harmless_and_made_otherwise(server: RunningServer) -> None:
    client = server.client()
    kept = client.get("/healthz", headers={"X-Request-Id": "abc-123"})
    assert kept.headers["x-request-id"] == "abc-123"
    for evil in ("a b", "x" * 200, '"><script>', ""):
        made = client.get("/healthz", headers={"X-Request-Id": evil})
        assert made.headers["x-request-id"] != evil
        assert len(made.headers["x-request-id"]) == 32


@pytest.mark.parametrize("path", ["/", "/health", "/healthz", "/models", "/docs"])
def test_head_is_answered_like_get_without_the_body(server: RunningServer, path: str) -> None:
    client = server.client("readonly")
    head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.fixture
def faulty(server: RunningServer) -> Iterator[TestClient]:
    """The application with a route that fails in a way nobody foresaw."""
    app: FastAPI = create_app(server.runtime)

    async def fail(request: Request, _: Anyone) -> Response:
        raise RuntimeError("secret at /etc/passwd 0x7f00deadbeef")

    app.router.add_api_route("/fail", fail, route_class_override=NativeRoute)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_an_unforeseen_error_is_a_plain_500_with_its_id(
    faulty: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = faulty.get("/fail", headers={"Accept-Language": "en", "X-Request-Id": "find-me"})
    assert answer.status_code == 500
    assert answer.json().keys() == SHAPE
    assert answer.json()["code"] == "internal_error"
    assert "secret" not in answer.text
    assert "passwd" not in answer.text
    assert answer.headers["x-request-id"] == "find-me"
    logged = capsys.readouterr().out
    assert "find-me" in logged
    assert "RuntimeError" in logged


def test_a_full_queue_is_503_and_a_full_owner_429(tmp_path: Path) -> None:
    with serving(tmp_path, queue={"max_tasks": 3, "max_per_owner": 2}) as server:
        client = server.client("generation")
        slow = ask("fake:slow_step=0.5", num_inference_steps=20) | {"async": True}
        statuses = [client.post("/generate", json=slow) for _ in range(4)]
        full = next(answer for answer in statuses if answer.status_code != 202)
        assert (full.status_code, full.json()["code"]) == (429, "owner_queue_full")
        assert int(full.headers["retry-after"]) >= 1
        stranger = server.client("stranger")
        answers = [stranger.post("/generate", json=slow) for _ in range(3)]
        full = next(answer for answer in answers if answer.status_code != 202)
        assert (full.status_code, full.json()["code"]) == (503, "queue_full")
        assert int(full.headers["retry-after"]) >= 1


def test_a_locked_database_is_503_and_nothing_is_lost(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        client = server.client("generation")
        before = client.post("/generate", json=ask() | {"async": True}).json()["task_id"]
        until(client, before, "completed")
        other = sqlite3.connect(tmp_path / "data" / "genserve.db", isolation_level=None)
        with closing(other):
            other.execute("BEGIN IMMEDIATE")
            refused = client.post("/generate", json=ask() | {"async": True})
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            ready = client.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["checks"]["database"] != "ok"
            assert client.get(f"/task/{before}").json()["status"] == "completed"
            other.execute("ROLLBACK")
        assert client.post("/generate", json=ask()).status_code == 200
        assert client.get("/readyz").status_code == 200


def test_links_begin_with_the_public_address(tmp_path: Path) -> None:
    with serving(tmp_path, server={"public_url": "https://img.example/base/"}) as server:
        answer = server.client("generation").post("/generate", json=ask()).json()
        assert answer["image_urls"][0].startswith("https://img.example/base/images/")


def test_only_a_server_that_can_never_serve_is_not_ready(tmp_path: Path) -> None:
    no_such_gpu = {"devices": [99], "restart_min_s": 0.01}
    with serving(tmp_path, pool=no_such_gpu) as server:
        client = server.client("both")
        while client.get("/health").json()["status"] != "unhealthy":
            time.sleep(0.1)
        answer = client.post("/generate", json=ask())
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert client.get("/health").status_code == 503
        assert client.get("/readyz").status_code == 503
        assert client.get("/readyz").json()["checks"]["workers"] == "no worker can serve"
