"""For machines that watch: alive, ready, metrics; without a key where that is safe."""

from pathlib import Path

from genserve.api.health import health_of
from genserve.domain.pool import WorkerInfo, WorkerState
from tests.api.test_generate import ask
from tests.serving import RunningServer, serving


def test_alive_and_ready_need_no_key(server: RunningServer) -> None:
    client = server.client()
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ready", "checks": {"database": "ok", "workers": "ok"}}


def test_metrics_count_requests_by_route_and_hold_no_secret(server: RunningServer) -> None:
    client = server.client("generation")
    task_id = client.post("/generate", json=ask("a very secret prompt")).json()["task_id"]
    client.get(f"/task/{task_id}")
    client.get("/no/such/path")
    answer = server.client().get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'endpoint="/task/{task_id}",method="GET",status="200"' in answer.text
    assert 'endpoint="other",method="GET",status="404"' in answer.text
    assert "genserve_queue_depth" in answer.text
    for secret in ("secret prompt", task_id, "key-that-may", "no/such"):
        assert secret not in answer.text


def test_metrics_are_for_this_machine_or_a_key(server: RunningServer) -> None:
    through_proxy = {"X-Forwarded-For": "203.0.113.7"}
    assert server.client().get("/metrics", headers=through_proxy).status_code == 401
    assert server.client("generation").get("/metrics", headers=through_proxy).status_code == 403
    assert server.client("readonly").get("/metrics", headers=through_proxy).status_code == 200
    assert server.client().get("/metrics", headers={"Host": "evil.example"}).status_code == 401


def test_metrics_can_be_made_public(tmp_path: Path) -> None:
    with serving(tmp_path, api={"public_metrics": True}) as server:
        headers = {"X-Forwarded-For": "203.0.113.7"}
        assert server.client().get("/metrics", headers=headers).status_code == 200


def worker(state: WorkerState) -> WorkerInfo:
    return WorkerInfo(id="0", device="cpu", state=state)


def test_health_is_the_best_of_the_workers() -> None:
    assert health_of([]) == "unhealthy"
    assert health_of([worker(WorkerState.BROKEN)]) == "unhealthy"
    assert health_of([worker(WorkerState.BROKEN), worker(WorkerState.STARTING)]) == "starting"
    assert health_of([worker(WorkerState.RESTARTING)]) == "starting"
    assert health_of([worker(WorkerState.BROKEN), worker(WorkerState.BUSY)]) == "healthy"
