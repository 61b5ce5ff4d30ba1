"""Who may call what: every route against every kind of caller, and guessing slowed down."""

import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts

from genserve.api.app import create_app
from genserve.api.auth import MayHaveKey, Needs, Open, access_of
from genserve.config import DEFAULT_API_KEY
from genserve.domain.caller import Permission
from tests.serving import KEYS, RunningServer, serving

DOCUMENTED = {
    "generation": {"/generate", "/generate/upload", "/task/{task_id}"},
    "readonly": {"/", "/health", "/status", "/models", "/loras", "/task/{task_id}"},
    "admin": {"/auth/keys", "/auth/generate-key"},
}
HOLDERS: dict[str, set[str]] = {
    "generation": {"generation"},
    "readonly": {"readonly"},
    "admin": {"generation", "readonly", "admin"},
    "all": {"generation", "readonly", "admin"},
}
NOWHERE = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def routes(server: RunningServer) -> list[RouteContext]:
    return list(iter_route_contexts(create_app(server.runtime).routes))


def test_every_route_says_who_may_call_it(routes: list[RouteContext]) -> None:
    assert len(routes) > 20
    for route in routes:
        assert isinstance(route.original_route, APIRoute), f"{route.path} is not one of ours"
        assert access_of(route.dependant) is not None, f"{route.path} does not say who may call it"


def test_only_these_routes_are_open(routes: list[RouteContext]) -> None:
    open_paths = {
        route.path: type(access_of(route.dependant))
        for route in routes
        if not isinstance(access_of(route.dependant), Needs)
    }
    assert open_paths == {
        "/health": MayHaveKey,
        "/metrics": MayHaveKey,
        "/healthz": Open,
        "/readyz": Open,
        "/images/{name}": Open,
        "/docs": Open,
        "/openapi.json": Open,
    }


def call(client: httpx2.Client, route: RouteContext) -> httpx2.Response:
    """Call a route with nothing in it that it could accept."""
    path = str(route.path).replace("{task_id}", NOWHERE).replace("{name}", "x")
    [method] = route.methods or {"GET"}
    return client.request(method, path, content=b"{}" if method == "POST" else None)


def test_the_matrix_of_routes_and_callers(
    server: RunningServer, routes: list[RouteContext]
) -> None:
    checked = 0
    for route in routes:
        access = access_of(route.dependant)
        if not isinstance(access, Needs):
            continue
        needed = set(access.permissions)
        for caller in (None, "not-a-key-of-ours", "expired", *HOLDERS):
            key = server_expired(server) if caller == "expired" else caller
            answer = call(server.client(key), route)
            expected = 401 if caller not in HOLDERS else 200
            if caller in HOLDERS and not needed & HOLDERS[caller]:
                expected = 403
            checked += 1
            if expected == 200:
                assert answer.status_code not in (401, 403), (route.path, caller)
            else:
                assert answer.status_code == expected, (route.path, caller, answer.text)
                assert answer.json().keys() == {"detail"}
                challenge = answer.headers.get("www-authenticate", "")
                assert challenge.startswith("Bearer") is (expected == 401)
    assert checked >= 100


def test_the_documents_table_of_permissions(routes: list[RouteContext]) -> None:
    for permission, paths in DOCUMENTED.items():
        for path in paths - {"/health"}:
            accesses = [access_of(route.dependant) for route in routes if route.path == path]
            assert accesses
            for access in accesses:
                assert isinstance(access, Needs)
                assert Permission(permission) in access.permissions


_EXPIRED: dict[int, str] = {}


def server_expired(server: RunningServer) -> str:
    """A key of this server that has expired."""
    if server.port not in _EXPIRED:
        soon = time.time() + 1
        made = server.client("admin").post(
            "/auth/generate-key",
            json={"name": "short", "permissions": ["all"], "expires_at": soon},
        )
        assert made.status_code == 200, made.text
        time.sleep(max(0.0, soon - time.time()) + 0.05)
        _EXPIRED[server.port] = made.json()["api_key"]
    return _EXPIRED[server.port]


def test_an_expired_key_is_told_so(server: RunningServer) -> None:
    answer = server.client(server_expired(server)).get("/status")
    assert answer.status_code == 401
    assert "expired" in answer.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEYS['readonly']}"},
        {"Authorization": f"bearer  {KEYS['readonly']}"},
        {"X-API-Key": KEYS["readonly"]},
        {"api-key": KEYS["readonly"]},
        {"x-key": KEYS["readonly"]},
        {"Authorization": "Basic dXNlcjpwYXNz", "X-API-Key": KEYS["readonly"]},
        {"Authorization": "Bearer", "X-API-Key": KEYS["readonly"]},
    ],
)
def test_every_header_style(server: RunningServer, headers: dict[str, str]) -> None:
    assert httpx2.get(f"{server.base_url}/status", headers=headers).status_code == 200


@pytest.mark.parametrize("key", ["", "x", "x" * 5000, "钥匙钥匙钥匙", "\xff\xfe", "a b"])
def test_what_is_no_key_is_refused(server: RunningServer, key: str) -> None:
    answer = httpx2.get(f"{server.base_url}/status", headers=[(b"x-api-key", key.encode())])
    assert answer.status_code == 401


def test_a_wrong_key_is_refused_where_a_key_is_optional(server: RunningServer) -> None:
    assert server.client("no-such-key-at-all").get("/health").status_code == 401
    anybody = server.client().get("/health")
    assert anybody.json().keys() == {"status", "model_loaded"}
    assert server.client("generation").get("/health").json() == anybody.json()
    details = server.client("readonly").get("/health").json()
    assert details.keys() > anybody.json().keys()
    assert details["served_by"]["flux1-dev"] == "flux1-dev"


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(tmp_path_factory.mktemp("keyless"), keys={"declared": []}) as running:
        yield running


def test_the_default_key_works_until_a_key_exists(tmp_path: Path) -> None:
    with serving(tmp_path, keys={"declared": []}) as server:
        client = server.client(DEFAULT_API_KEY)
        assert client.get("/status").json()["auth_info"] == {
            "user": "default",
            "permissions": ["all"],
        }
        key = client.post("/auth/generate-key", data={"name": "a", "permissions": "all"}).json()
        assert client.get("/status").status_code == 401
        assert server.client(key["api_key"]).get("/status").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.7"},
        {"Origin": "https://evil.example"},
        {"Host": "evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_the_default_key_is_refused_to_anybody_else(
    keyless: RunningServer, headers: dict[str, str]
) -> None:
    assert keyless.client(DEFAULT_API_KEY).get("/status", headers=headers).status_code == 401


def test_the_default_key_is_unknown_where_keys_exist(server: RunningServer) -> None:
    assert server.client(DEFAULT_API_KEY).get("/status").status_code == 401


def test_guessing_from_one_address_is_slowed_down(tmp_path: Path) -> None:
    api = {"auth_failure_limit": "5/minute", "rate_limit": "1000/minute"}
    with serving(tmp_path, api=api) as server:
        known = server.client("readonly")
        assert known.get("/status").status_code == 200
        guesses = [server.client(f"guess-number-{n}").get("/status") for n in range(8)]
        assert [guess.status_code for guess in guesses] == [401] * 5 + [429] * 3
        refused = guesses[-1]
        assert refused.json()["code"] == "too_many_auth_failures"
        assert 0 < int(refused.headers["retry-after"]) <= 61
        # A right guess looks like a wrong one; who was here before goes on undisturbed.
        assert server.client("generation").get("/tasks").status_code == 429
        assert known.get("/status").status_code == 200
        assert server.client().get("/status").status_code == 429
        assert server.client().get("/healthz").status_code == 200


def test_a_missing_key_counts_as_a_failure(tmp_path: Path) -> None:
    api = {"auth_failure_limit": "2/minute"}
    with serving(tmp_path, api=api) as server:
        statuses = [server.client().get("/status").status_code for _ in range(3)]
        assert statuses == [401, 401, 429]


def test_a_key_may_ask_so_often_and_no_more(tmp_path: Path) -> None:
    with serving(tmp_path, api={"rate_limit": "5/minute"}) as server:
        client = server.client("readonly")
        answers = [client.get("/status") for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert answers[0].headers["ratelimit-policy"] == '"default";q=5;w=60'
        assert answers[0].headers["ratelimit"].startswith('"default";r=4;t=')
        assert answers[3].headers["x-ratelimit-remaining-requests"] == "1"
        assert answers[0].headers["x-ratelimit-limit-requests"] == "5"
        refused = answers[5]
        assert refused.json().keys() == {"success", "error", "detail", "code", "task_id"}
        assert refused.json()["code"] == "rate_limited"
        assert 0 < int(refused.headers["retry-after"]) <= 61
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert server.client("generation").get("/tasks").status_code == 200
        assert client.get("/healthz").status_code == 200
