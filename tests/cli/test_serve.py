"""`genserve serve`: ready, used, drained, stopped at once, and refused."""

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from genserve.cli.sockets import listen
from tests.cli.command import FAKE, genserve, one_line, write_config
from tests.cli.serving import children, serve, wait_until

DRAWING = {
    "prompt": "a cat",
    "model_id": "fake",
    "width": 64,
    "height": 64,
    "num_inference_steps": 4,
}
LIKE_SHIPPED = {**FAKE, "models": {"flux1-dev": {"family": "fake", "multiple_of": 8}}}
"""The documented model id, so that the printed line works."""


def slow(seconds: float) -> dict[str, Any]:
    """A request whose work takes so long, in many small steps."""
    return {**DRAWING, "prompt": f"fake:sleep={seconds}", "num_inference_steps": 100}


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def processing(client: httpx2.Client) -> bool:
    return bool(client.get("/status").json()["queue"]["processing"] == 1)


def test_the_printed_line_draws_a_picture_when_it_is_pasted(tmp_path):
    with serve(tmp_path, LIKE_SHIPPED) as server:
        [line] = [line for line in server.printed.splitlines() if line.startswith("curl ")]
        pasted = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, timeout=60)
        assert pasted.returncode == 0, pasted.stderr
    assert (tmp_path / "cat.png").read_bytes().startswith(b"\x89PNG")


def test_the_log_is_json_lines_with_ids_and_without_prompts(tmp_path):
    with serve(tmp_path, FAKE) as server, server.client() as client:
        answer = client.post(
            "/generate",
            json={**DRAWING, "prompt": "private words"},
            headers={"X-Request-Id": "from-the-test"},
        )
        assert answer.status_code == 200
        client.get("/no/such%0apath%1b[2J")
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        records = [json.loads(line) for line in server.log().splitlines()]
    assert "private words" not in server.log()
    [ours] = [record for record in records if record.get("request_id") == "from-the-test"]
    assert ours["task_id"] == answer.json()["task_id"]
    assert [record["event"] for record in records if record["logger"] == "genserve.server"] == [
        "ready",
        "stopping",
    ]


def test_sigterm_lets_a_running_task_end_and_its_client_read_it(tmp_path):
    with (
        serve(tmp_path, FAKE) as server,
        server.client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(client.post, "/generate", json=slow(2))
        with server.client() as other:
            wait_until(lambda: processing(other))
            server.send(signal.SIGTERM)
            answer = waiting.result()
        assert answer.status_code == 200
        assert answer.json()["image"].startswith("data:image/png;base64,")
        assert server.wait() == 0


def test_sigterm_refuses_new_tasks_while_it_drains_and_keeps_waiting_ones(tmp_path):
    with serve(tmp_path, FAKE) as server, server.client() as client:
        client.post("/generate", json={**slow(3), "async": True})
        wait_until(lambda: processing(client))
        kept = client.post("/generate", json={**DRAWING, "async": True}).json()["task_id"]
        server.send(signal.SIGTERM)
        wait_until(lambda: "stopping" in server.log())
        refused = client.post("/generate", json={**DRAWING, "async": True})
        assert refused.status_code == 503
        assert refused.json()["code"] == "shutting_down"
        assert server.wait() == 0
    with serve(tmp_path, FAKE) as server, server.client() as client:
        wait_until(lambda: client.get(f"/task/{kept}").json()["status"] == "completed")


def test_a_second_sigterm_stops_at_once_and_loses_nothing(tmp_path):
    with serve(tmp_path, FAKE) as server, server.client() as client:
        task_id = client.post("/generate", json={**slow(60), "async": True}).json()["task_id"]
        wait_until(lambda: processing(client))
        started = children(server.process.pid)
        assert started
        server.send(signal.SIGTERM)
        wait_until(lambda: "stopping" in server.log())
        server.send(signal.SIGTERM)
        assert server.wait(10) == 1
        wait_until(lambda: not any(alive(pid) for pid in started))
    with serve(tmp_path, FAKE) as server, server.client() as client:
        wait_until(lambda: client.get(f"/task/{task_id}").json()["status"] == "processing")
        assert client.post(f"/task/{task_id}/cancel").status_code == 200


def test_ctrl_c_is_an_orderly_end_too(tmp_path):
    with serve(tmp_path, FAKE) as server:
        server.send(signal.SIGINT)
        assert server.wait() == 0
        assert "Traceback" not in server.log()


def test_a_port_in_use_is_found_before_anything_is_made(tmp_path):
    [taken] = listen("127.0.0.1", 0)
    with taken:
        port = str(taken.getsockname()[1])
        done = genserve(tmp_path, "serve", "--port", port)
    assert done.returncode == 2
    assert port in one_line(done)
    assert not (tmp_path / "data").exists()


def test_one_server_for_each_data_folder(tmp_path):
    with serve(tmp_path, FAKE):
        done = genserve(tmp_path, "serve", "--port", "0")
    assert done.returncode == 2
    assert "in use by another GenServe server" in one_line(done)


def test_another_address_needs_a_real_key(tmp_path):
    write_config(tmp_path, FAKE)
    done = genserve(tmp_path, "serve", "--port", "0", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "genserve keys create" in one_line(done)
    secret = "my-own-secret-key-123"
    declared = {"API_KEY_1": f"{secret}:developer:all"}
    with serve(tmp_path, FAKE, "--host", "0.0.0.0", **declared) as server:
        with server.client(secret) as client:
            assert client.get("/status").status_code == 200
        assert secret not in server.printed
        assert "YOUR_API_KEY" in server.printed
        assert '"developer"' in server.printed


@pytest.mark.parametrize("content", ["[1, 2", "models: {x: {family: fake, modes: [sing]}}"])
def test_a_broken_configuration_is_one_line(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    done = genserve(tmp_path, "serve", "--port", "0")
    assert done.returncode == 2
    one_line(done)


def test_a_wrong_master_key_refuses_to_start_and_touches_nothing(tmp_path):
    write_config(tmp_path, FAKE)
    made = genserve(tmp_path, "keys", "create", "me", API_KEYS_ENCRYPTION_KEY=master("a"))
    assert made.returncode == 0, made.stderr
    done = genserve(tmp_path, "serve", "--port", "0", API_KEYS_ENCRYPTION_KEY=master("b"))
    assert done.returncode == 2
    assert "API_KEYS_ENCRYPTION_KEY" in one_line(done)
    again = genserve(tmp_path, "keys", "list", "--json", API_KEYS_ENCRYPTION_KEY=master("a"))
    assert [row["name"] for row in json.loads(again.stdout)] == ["me"]


def master(letter: str) -> str:
    return letter * 42 + "A="


def test_no_worker_is_left_when_the_server_is_killed(tmp_path):
    with serve(tmp_path, FAKE) as server:
        started = children(server.process.pid)
        assert started
        os.kill(server.process.pid, signal.SIGKILL)
        wait_until(lambda: not any(alive(pid) for pid in started))
