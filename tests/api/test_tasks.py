"""Looking at tasks: one, many, as they happen; stopping them; and never another owner's."""

import json
from typing import Any

import httpx2
import pytest

from genserve.api.sse import with_pings
from tests.api.test_generate import ask, until
from tests.serving import RunningServer

Event = tuple[str, str, dict[str, Any]]


def submit(client: httpx2.Client, prompt: str = "a cat", **fields: Any) -> str:
    answer = client.post("/generate", json=ask(prompt, **fields) | {"async": True})
    assert answer.status_code == 202, answer.text
    task_id: str = answer.json()["task_id"]
    return task_id


def events(client: httpx2.Client, task_id: str, **headers: str) -> list[Event]:
    """Every event of a task, to the last."""
    found: list[Event] = []
    with client.stream("GET", f"/task/{task_id}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        for block in answer.read().decode().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if "data" in lines:
                found.append((lines["id"], lines["event"], json.loads(lines["data"])))
    return found


def test_a_task_tells_its_whole_life(server: RunningServer) -> None:
    client = server.client("generation")
    blocking = submit(client, "fake:slow_step=0.2")
    waiting = submit(client)
    until(client, blocking, "processing")
    queued = client.get(f"/task/{waiting}").json()
    assert (queued["status"], queued["stage"], queued["position"]) == ("pending", "queued", 1)
    assert [queued[name] for name in ("image", "error", "started_at")] == [None] * 3
    assert queued["images"] == []
    done = until(client, waiting, "completed")
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]
    assert done["created_at"].endswith("Z")
    assert done["stage"] is None


def test_progress_is_shown_while_a_task_is_worked_on(server: RunningServer) -> None:
    client = server.client("generation")
    task_id = submit(client, "fake:slow_step=0.1", num_inference_steps=10)
    while (task := until(client, task_id, "processing"))["progress"] is None:
        pass
    progress = task["progress"]
    assert 1 <= progress["step"] <= progress["total"] == 10
    assert progress["percent"] == 10 * progress["step"]
    client.post(f"/task/{task_id}/cancel")


def test_events_come_in_order_and_end(server: RunningServer) -> None:
    client = server.client("generation")
    blocking = submit(client, "fake:slow_step=0.2")
    task_id = submit(client, "fake:slow_step=0.05", num_inference_steps=5)
    told = events(client, task_id)
    kinds = [kind for _, kind, _ in told]
    assert kinds[0] == "queued"
    assert kinds[-1] == "finished"
    assert kinds.index("started") < kinds.index("progress")
    steps = [data["step"] for _, kind, data in told if kind == "progress"]
    assert steps == sorted(steps)
    assert told[0][2]["position"] >= 1
    assert all(data["task_id"] == task_id for _, _, data in told)
    assert told[-1][2]["image_urls"][0].startswith(server.base_url)
    assert until(client, blocking, "completed")["success"]


def test_events_of_an_ended_task_are_its_end(server: RunningServer) -> None:
    client = server.client("generation")
    done = client.post("/generate", json=ask()).json()["task_id"]
    assert [kind for _, kind, _ in events(client, done)] == ["finished"]
    failed = client.post("/generate", json=ask("fake:error")).json()["task_id"]
    [(_, kind, data)] = events(client, failed)
    assert (kind, data["code"]) == ("failed", "worker_failed")
    stopped = submit(client, "fake:slow_step=1")
    client.post(f"/task/{stopped}/cancel")
    assert events(client, stopped)[-1][1] == "cancelled"


def test_a_broken_stream_is_resumed_without_repeating(server: RunningServer) -> None:
    client = server.client("generation")
    task_id = submit(client, "fake:slow_step=0.1", num_inference_steps=10)
    seen = ""
    with client.stream("GET", f"/task/{task_id}/events") as answer:
        for line in answer.iter_lines():
            seen = line.removeprefix("id: ") if line.startswith("id: ") else seen
            if line == "event: progress":
                break
    rest = events(client, task_id, **{"Last-Event-ID": seen})
    assert seen not in [event_id for event_id, _, _ in rest]
    assert rest[-1][1] == "finished"
    numbers = [tuple(map(int, event_id.split("."))) for event_id, _, _ in rest[:-1]]
    assert all(number > tuple(map(int, seen.split("."))) for number in numbers)


async def test_a_quiet_stream_is_kept_open_by_comments() -> None:
    async def silent() -> Any:
        await asyncio.sleep(0.2)
        yield "data: x\n\n"

    import asyncio

    sent = [chunk async for chunk in with_pings(silent(), 0.02)]
    assert sent[0].startswith(b"retry: ")
    assert sent.count(b": ping\n\n") >= 2
    assert sent[-1] == b"data: x\n\n"


def test_cancelling_a_waiting_and_a_running_task(server: RunningServer) -> None:
    client = server.client("generation")
    running = submit(client, "fake:slow_step=0.1", num_inference_steps=100)
    waiting = submit(client)
    until(client, running, "processing")
    at_once = client.post(f"/task/{waiting}/cancel").json()
    assert (at_once["success"], at_once["status"]) == (True, "cancelled")
    assert client.post(f"/task/{running}/cancel").status_code == 200
    assert until(client, running, "cancelled")["code"] == "task_cancelled"
    again = client.post(f"/task/{running}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "task_already_ended")


def test_lists_are_paged_newest_first(server: RunningServer) -> None:
    client = server.client("stranger")
    made = [submit(client) for _ in range(5)]
    found: list[str] = []
    before: str | None = None
    while True:
        params = {"limit": 2} | ({"before": before} if before else {})
        page = client.get("/tasks", params=params).json()
        found += [task["task_id"] for task in page["tasks"]]
        before = page["next"]
        if before is None or len(found) >= 5:
            break
    assert found[:5] == made[::-1]
    for task_id in made:
        until(client, task_id, "completed")
    some = client.get("/tasks", params={"status": "completed", "limit": 200}).json()["tasks"]
    assert set(made) <= {task["task_id"] for task in some}
    assert all("image" not in task and task["image_urls"] for task in some)


def test_another_owners_tasks_are_not_there_but_an_admin_sees_all(server: RunningServer) -> None:
    owner, stranger, admin = (server.client(name) for name in ("both", "stranger", "admin"))
    task_id = owner.post("/generate", json=ask()).json()["task_id"]
    for path in (f"/task/{task_id}", f"/task/{task_id}/events"):
        assert stranger.get(path).status_code == 404
        assert admin.get(path).status_code == 200
    refused = stranger.post(f"/task/{task_id}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (404, "task_not_found")
    listed = {
        name: {task["task_id"] for task in server.client(name).get("/tasks").json()["tasks"]}
        for name in ("both", "stranger", "admin")
    }
    assert task_id in listed["both"] & listed["admin"]
    assert task_id not in listed["stranger"]


@pytest.mark.parametrize(
    "task_id", ["abc123def456", "%00", "..%2F..%2Fetc", "00000000-0000-7000-8000-000000000000"]
)
def test_an_unknown_task_is_not_found(server: RunningServer, task_id: str) -> None:
    answer = server.client("generation").get(f"/task/{task_id}")
    assert answer.status_code == 404
    assert answer.json()["code"] in ("task_not_found", "not_found")
