"""POST /generate: waiting, not waiting, raw pictures, bad ends, hanging up, idempotency."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.api.pictures import opened, png, uri
from tests.serving import KEYS, RunningServer

SMALL: dict[str, Any] = {"width": 64, "height": 64, "num_inference_steps": 2}


def ask(prompt: str = "a cat", **fields: Any) -> dict[str, Any]:
    return SMALL | {"prompt": prompt} | fields


def until(client: httpx2.Client, task_id: str, *states: str) -> dict[str, Any]:
    """The task once it is in one of `states`; the test's own time limit ends a wait in vain."""
    while True:
        task: dict[str, Any] = client.get(f"/task/{task_id}").json()
        if task["status"] in states:
            return task
        time.sleep(0.02)


def test_the_answer_says_how_the_picture_was_made(server: RunningServer) -> None:
    fields = ask(num_images=3, seed=7, cfg=2.5, scheduler="heun", output_format="webp")
    content = server.client("both").post("/generate", json=fields).json()
    assert len(content["images"]) == len(content["image_urls"]) == 3
    assert content["images"][0] == content["image"]
    assert len(set(content["images"])) == 3
    assert opened(content["image"]).format == "WEBP"
    metadata = content["metadata"]
    assert metadata["seeds"][0] == metadata["seed"] == 7
    assert len(set(metadata["seeds"])) == 3
    assert (metadata["steps"], metadata["cfg"], metadata["scheduler"]) == (2, 2.5, "heun")
    assert (metadata["width"], metadata["height"], metadata["upscaled"]) == (64, 64, False)
    assert metadata["served_by"] == "flux1-dev"
    assert metadata["degraded"] == []
    assert metadata["queue_time"] >= 0
    assert content["auth_info"]["permissions"] == ["generation", "readonly"]


def test_the_same_seed_draws_the_same_and_a_drawn_seed_draws_it_again(
    server: RunningServer,
) -> None:
    client = server.client("generation")
    first = client.post("/generate", json=ask(seed=None)).json()
    drawn = first["metadata"]["seed"]
    assert 0 <= drawn < 2**32
    again = client.post("/generate", json=ask(seed=drawn)).json()
    other = client.post("/generate", json=ask(seed=-1)).json()
    assert again["image"] == first["image"]
    assert other["image"] != first["image"]
    assert client.post("/generate", json=ask()).json()["metadata"]["seed"] == 42


def test_the_jpeg_alias_and_metadata_can_be_turned_off(server: RunningServer) -> None:
    client = server.client("generation")
    jpeg = client.post("/generate", json=ask(output_format="jpeg")).json()
    assert jpeg["image"].startswith("data:image/jpeg;base64,")
    with_text = client.post("/generate", json=ask()).json()
    without = client.post("/generate", json=ask(embed_metadata=False)).json()
    assert "a cat" in opened(with_text["image"]).info["parameters"]
    assert "parameters" not in opened(without["image"]).info


def test_a_content_type_is_not_needed(server: RunningServer) -> None:
    client = server.client("generation")
    body = '{"prompt": "x", "width": 64, "height": 64, "num_inference_steps": 1}'
    for headers in ({}, {"Content-Type": "application/x-www-form-urlencoded"}):
        answer = client.post("/generate", content=body, headers=headers)
        assert answer.status_code == 200


@pytest.mark.parametrize("how", [{"async": True}, {}])
def test_an_asynchronous_request_is_answered_at_once(
    server: RunningServer, how: dict[str, Any]
) -> None:
    client = server.client("generation")
    headers = {} if how else {"Prefer": "respond-async"}
    answer = client.post("/generate", json=ask(**how), headers=headers)
    content = answer.json()
    assert answer.status_code == 202
    assert content.keys() == {"success", "task_id", "status", "status_url", "events_url"}
    assert content["status"] == "pending"
    assert answer.headers["location"] == content["status_url"] == f"/task/{content['task_id']}"
    done = until(client, content["task_id"], "completed")
    assert opened(done["image"]).size == (64, 64)


@pytest.mark.parametrize("path", ["/generate", "/generate/upload", "/task"])
def test_a_picture_itself_when_accept_says_so(server: RunningServer, path: str) -> None:
    client = server.client("generation", Accept="image/png")
    fields = ask(seed=5)
    if path == "/generate/upload":
        answer = client.post(path, files={k: (None, str(v)) for k, v in fields.items()})
    else:
        answer = client.post("/generate", json=fields)
    if path == "/task":
        answer = client.get(f"/task/{answer.headers['x-task-id']}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-seed"] == "5"
    assert opened(answer.content).size == (64, 64)


def test_content_type_tells_the_format_that_was_made(server: RunningServer) -> None:
    client = server.client("generation", Accept="image/png")
    answer = client.post("/generate", json=ask(output_format="jpg"))
    assert answer.headers["content-type"] == "image/jpeg"
    assert opened(answer.content).format == "JPEG"


@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [
        ("fake:oom=99", 503, "out_of_memory"),
        ("fake:constant", 500, "bad_picture"),
        ("fake:error", 500, "worker_failed"),
        ("fake:crash", 500, "poisoned"),
    ],
)
def test_a_bad_end_has_its_status_code_and_remedy(
    server: RunningServer, prompt: str, status: int, code: str
) -> None:
    client = server.client("generation")
    answer = client.post("/generate", json=ask(prompt))
    content = answer.json()
    assert (answer.status_code, content["code"]) == (status, code)
    assert content.keys() == {"success", "error", "detail", "code", "task_id"}
    assert content["success"] is False
    task = client.get(f"/task/{content['task_id']}").json()
    assert (task["status"], task["success"], task["code"]) == ("failed", False, code)
    assert (task["error"], task["detail"]) == (content["error"], content["detail"])


def test_a_cancelled_task_tells_who_waits_for_it(server: RunningServer) -> None:
    client = server.client("generation")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/generate", json=ask("fake:slow_step=0.2"))
        while not (tasks := client.get("/tasks", params={"status": "processing"}).json()["tasks"]):
            time.sleep(0.02)
        client.post(f"/task/{tasks[0]['task_id']}/cancel")
        answer = waiting.result()
    assert (answer.status_code, answer.json()["code"]) == (409, "task_cancelled")


def post_raw(server: RunningServer, body: str, *headers: str) -> socket.socket:
    """Send a waiting request over a bare socket, which the test then closes."""
    head = [
        "POST /generate HTTP/1.1",
        "Host: localhost",
        f"X-API-Key: {KEYS['generation']}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(("\r\n".join(head) + "\r\n\r\n" + body).encode())
    return connection


@pytest.mark.parametrize(
    ("headers", "end"),
    [
        ([], "cancelled"),
        (["Idempotency-Key: kept-though-gone"], "completed"),
        (["Prefer: respond-async"], "completed"),
    ],
)
def test_hanging_up_cancels_what_nobody_else_waits_for(
    server: RunningServer, headers: list[str], end: str
) -> None:
    client = server.client("generation")
    newest = client.get("/tasks", params={"limit": 1}).json()["tasks"]
    body = '{"prompt":"fake:slow_step=0.1","width":64,"height":64,"num_inference_steps":8}'
    connection = post_raw(server, body, *headers)
    while (tasks := client.get("/tasks", params={"limit": 1}).json()["tasks"]) == newest:
        time.sleep(0.02)
    connection.close()
    assert until(client, tasks[0]["task_id"], "completed", "cancelled")["status"] == end


def test_a_repeated_key_replays_the_answer(server: RunningServer) -> None:
    client = server.client("generation", **{"Idempotency-Key": "one"})
    first = client.post("/generate", json=ask(seed=None))
    again = client.post("/generate", json=ask(seed=None))
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["task_id"] == first.json()["task_id"]
    assert again.json()["image"] == first.json()["image"]


def test_a_repeated_key_replays_an_accepted_task_and_a_failure(server: RunningServer) -> None:
    client = server.client("generation")
    accepted = {"Idempotency-Key": "two", "Prefer": "respond-async"}
    first, again = (client.post("/generate", json=ask(), headers=accepted) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    failing = {"Idempotency-Key": "three"}
    answers = [client.post("/generate", json=ask("fake:error"), headers=failing) for _ in range(2)]
    assert answers[0].status_code == answers[1].status_code == 500
    assert answers[0].json() == answers[1].json()


def test_a_key_in_flight_or_of_another_body_or_caller(server: RunningServer) -> None:
    headers = {"Idempotency-Key": "four"}
    client = server.client("generation", **headers)
    slow = ask("fake:slow_step=0.3")
    started = client.post("/generate", json=slow, headers={"Prefer": "respond-async"}).json()
    busy = client.post("/generate", json=slow)
    assert (busy.status_code, busy.json()["code"]) == (409, "idempotency_in_flight")
    other = client.post("/generate", json=ask("another"))
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    stranger = server.client("stranger", **headers).post("/generate", json=ask("another"))
    assert stranger.status_code == 200
    until(client, started["task_id"], "completed")


def test_the_mode_of_a_picture_shapes_the_result(server: RunningServer) -> None:
    client = server.client("generation")
    fields = ask(mode="img2img", strength=0.5)
    red = client.post("/generate", json=fields | {"input_image": uri(png(colour="red"))})
    blue = client.post("/generate", json=fields | {"input_image": uri(png(colour="blue"))})
    assert red.status_code == blue.status_code == 200
    assert red.json()["image"] != blue.json()["image"]
    assert red.json()["metadata"]["strength"] == 0.5


def test_links_work_without_a_key(server: RunningServer) -> None:
    content = server.client("generation").post("/generate", json=ask()).json()
    link = content["image_urls"][0]
    assert urlsplit(link)[:2] == urlsplit(server.base_url)[:2]
    answer = httpx2.get(link, trust_env=False)
    assert answer.status_code == 200
    assert opened(answer.content) == opened(content["image"])
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answer.headers["content-disposition"].startswith("inline; filename=")
    assert answer.headers["cache-control"].startswith("private, immutable, max-age=3")
    for wrong in (link[:-1], link.replace("expires=1", "expires=2"), link.partition("?")[0]):
        refused = httpx2.get(wrong, trust_env=False)
        assert (refused.status_code, refused.json()["code"]) == (404, "image_not_found")
