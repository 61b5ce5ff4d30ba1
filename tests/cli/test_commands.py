"""The other commands, each with and, where it can, without a running server."""

import io
import json
import math
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from genserve.cli.bench.command import Benchmark
from genserve.cli.checks import service
from genserve.cli.checks.finding import Verdict
from genserve.cli.sockets import listen
from genserve.config import Config
from tests.cli.command import FAKE, environment, genserve, one_line, write_config
from tests.cli.serving import serve, wait_until

SMALL = ["--model", "fake", "--width", "64", "--height", "64", "--steps", "4"]


@pytest.fixture
def free_port():
    """A port at which nobody listens."""
    [taken] = listen("127.0.0.1", 0)
    port = taken.getsockname()[1]
    taken.close()
    return str(port)


def rows(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_keys_without_a_server(tmp_path):
    write_config(tmp_path, FAKE)
    assert rows(genserve(tmp_path, "keys", "list", "--json")) == []
    made = genserve(tmp_path, "keys", "create", "me", "--permissions", "generation, readonly")
    key = made.stdout.strip()
    assert key.startswith("gs_")
    [row] = rows(genserve(tmp_path, "keys", "list", "--json"))
    assert row["name"] == "me"
    assert row["permissions"] == ["generation", "readonly"]
    assert key not in json.dumps(row)
    assert "me" in genserve(tmp_path, "keys", "list").stdout
    rotated = genserve(tmp_path, "keys", "rotate-master")
    assert rotated.returncode == 0, rotated.stderr
    assert "encrypted anew" in rotated.stdout
    assert genserve(tmp_path, "keys", "revoke", row["key_id"]).returncode == 0
    assert rows(genserve(tmp_path, "keys", "list", "--json")) == []
    gone = genserve(tmp_path, "keys", "revoke", row["key_id"])
    assert gone.returncode == 1
    assert row["key_id"] in one_line(gone)


def test_a_permission_that_does_not_exist_is_a_usage_error(tmp_path):
    write_config(tmp_path, FAKE)
    done = genserve(tmp_path, "keys", "create", "me", "--permissions", "everything")
    assert done.returncode == 2
    assert "everything" in one_line(done)


def test_keys_and_tasks_through_the_server_that_holds_the_data_folder(tmp_path):
    admin = "the-administrators-own-key"
    declared = {"API_KEY_1": f"{admin}:boss:all"}
    with serve(tmp_path, FAKE, **declared) as server:
        # The port is the server's own choice here, so the commands are told its address.
        told = {"GENSERVE_URL": server.url, "GENSERVE_API_KEY": admin}
        made = rows(genserve(tmp_path, "keys", "create", "me", "--json", **told))
        with server.client(made["api_key"]) as client:
            slow = {"prompt": "fake:sleep=60", "model_id": "fake", "async": True}
            task_id = client.post("/generate", json=slow).json()["task_id"]
        [task] = rows(genserve(tmp_path, "tasks", "list", "--json", **told))
        assert task["task_id"] == task_id
        done = genserve(tmp_path, "tasks", "cancel", task_id, **told)
        assert done.stdout.startswith(task_id)
        with server.client(admin) as client:
            wait_until(lambda: client.get(f"/task/{task_id}").json()["status"] == "cancelled")
        listed = genserve(tmp_path, "tasks", "list", "--status", "cancelled", **told)
        assert task_id in listed.stdout
        again = genserve(tmp_path, "tasks", "cancel", task_id, **told)
        assert again.returncode == 1
        assert "already cancelled" in one_line(again)
        assert genserve(tmp_path, "keys", "revoke", made["key_id"], **told).returncode == 0
        names = [row["name"] for row in rows(genserve(tmp_path, "keys", "list", "--json", **told))]
        assert names == ["boss"]
        wrong = genserve(tmp_path, "tasks", "list", GENSERVE_URL=server.url)
        assert wrong.returncode == 1
        assert "GENSERVE_API_KEY" in one_line(wrong)


def test_the_server_is_found_where_the_configuration_says(tmp_path, free_port):
    settings = {**FAKE, "server": {"port": int(free_port)}}
    with serve(tmp_path, settings, "--port", free_port):
        assert rows(genserve(tmp_path, "keys", "list", "--json")) == []
        done = genserve(tmp_path, "keys", "rotate-master")
        assert done.returncode == 1
        assert "stop the server first" in one_line(done)


def test_without_a_server_it_is_told_with_its_own_exit_code(tmp_path, free_port):
    write_config(tmp_path, {"server": {"port": int(free_port)}})
    done = genserve(tmp_path, "tasks", "list")
    assert done.returncode == 3
    assert free_port in one_line(done)


def test_something_else_at_the_address_is_not_taken_for_a_server(tmp_path):
    [other] = listen("127.0.0.1", 0)
    other.setblocking(True)
    url = f"http://127.0.0.1:{other.getsockname()[1]}"

    def answer():
        connection, _ = other.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    thread = threading.Thread(target=answer)
    thread.start()
    done = genserve(tmp_path, "tasks", "list", GENSERVE_URL=url)
    thread.join()
    other.close()
    assert done.returncode == 1
    assert "does not answer as GenServe does" in one_line(done)


def size_of(path: Path) -> tuple[str | None, tuple[int, int]]:
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return image.format, image.size


def test_generate_without_a_server(tmp_path, free_port):
    write_config(tmp_path, {**FAKE, "server": {"port": int(free_port)}})
    done = genserve(tmp_path, "generate", "a cat", *SMALL, "-o", "cat.png", "--seed", "7")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cat.png (seed 7, drawn by fake)\n"
    assert size_of(tmp_path / "cat.png") == ("PNG", (64, 64))
    assert not (tmp_path / "data").exists()


def test_generate_through_a_server_draws_the_same_picture(tmp_path, free_port):
    asked = ["generate", "a cat", *SMALL, "--seed", "7", "--num-images", "2"]
    with serve(tmp_path, FAKE) as server:
        done = genserve(tmp_path, *asked, "-o", "there.webp", GENSERVE_URL=server.url)
        assert done.returncode == 0, done.stderr
    write_config(tmp_path, {**FAKE, "server": {"port": int(free_port)}})
    assert genserve(tmp_path, *asked, "-o", "here.webp").returncode == 0
    for number in (1, 2):
        there, here = (tmp_path / f"{name}-{number}.webp" for name in ("there", "here"))
        assert size_of(there) == ("WEBP", (64, 64))
        assert there.read_bytes() == here.read_bytes()


@pytest.mark.parametrize("through_server", [True, False])
def test_a_picture_that_cannot_be_drawn_is_one_line(tmp_path, free_port, through_server):
    write_config(tmp_path, {**FAKE, "server": {"port": int(free_port)}})
    asked = ["generate", "fake:error", *SMALL, "-o", "cat.png"]
    if through_server:
        with serve(tmp_path, FAKE) as server:
            done = genserve(tmp_path, *asked, GENSERVE_URL=server.url)
    else:
        done = genserve(tmp_path, *asked)
    assert done.returncode == 1
    # Without a server, its log stands before.
    last = done.stderr.splitlines()[-1]
    assert last.startswith("genserve: ")
    assert "worker failed" in last
    assert not (tmp_path / "cat.png").exists()


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["-o", "cat.gif"], 2, "cat.gif"),
        (["-o", "no/such/folder/cat.png"], 1, "no/such/folder"),
        (["-o", "."], 1, "is a folder"),
        (["-o", "cat.png", "--steps", "0"], 2, "--steps"),
    ],
)
def test_generate_refuses_before_it_draws(tmp_path, options, code, named):
    done = genserve(tmp_path, "generate", "a cat", *options)
    assert done.returncode == code
    assert named in done.stderr


def test_ctrl_c_cancels_the_servers_task(tmp_path):
    with serve(tmp_path, FAKE) as server, server.client() as client:
        asked = ["generate", "fake:sleep=60", "--model", "fake", "--steps", "100"]
        command = [sys.executable, "-m", "genserve", *asked]
        with subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment(GENSERVE_URL=server.url),
            stderr=subprocess.PIPE,
            # Tests that run in the background have SIGINT ignored, and so would this.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            wait_until(lambda: client.get("/status").json()["queue"]["processing"] == 1)
            time.sleep(0.3)  # the command has the task's id a moment after the server runs it
            process.send_signal(signal.SIGINT)
            try:
                _, said = process.communicate(timeout=30)
            finally:
                process.kill()
        assert process.returncode == 130
        assert b"Traceback" not in said
        [task] = client.get("/tasks").json()["tasks"]
        wait_until(lambda: client.get("/tasks").json()["tasks"][0]["status"] == "cancelled")
        assert task["task_id"]


def test_models_and_loras(tmp_path):
    write_config(tmp_path, FAKE | {"models": {**FAKE["models"], "absent": {"family": "flux"}}})
    fake, absent = rows(genserve(tmp_path, "models", "list", "--json"))
    assert (fake["id"], fake["installed"], fake["served_by"]) == ("fake", True, "fake")
    assert (absent["id"], absent["installed"], absent["served_by"]) == ("absent", False, None)
    table = genserve(tmp_path, "models", "list").stdout
    assert "text2img" in table
    assert rows(genserve(tmp_path, "loras", "list", "--json")) == []


def test_doctor(tmp_path, free_port):
    settings = {**FAKE, "server": {"port": int(free_port)}}
    with serve(tmp_path, settings, "--port", free_port):
        found = {row["subject"]: row for row in rows(genserve(tmp_path, "doctor", "--json"))}
    assert {"python", "torch", "driver", "data folder", "port", "sqlite", "database", "models"} <= (
        found.keys()
    )
    assert found["torch"]["found"].startswith("2.")
    assert "answers" in found["port"]["found"]
    assert "running server" in found["database"]["found"]


def test_doctor_before_the_first_start(tmp_path, free_port):
    config = Config.model_validate(
        {**FAKE, "server": {"port": int(free_port)}, "data_dir": tmp_path / "data"}
    )
    found = {finding.subject: finding for finding in service.check(config, None)}
    assert all(finding.verdict is Verdict.OK for finding in found.values())
    assert "free" in found["port"].found
    assert "made at the first start" in found["database"].found
    assert not (tmp_path / "data").exists()


def test_doctor_ends_with_1_when_something_must_be_done(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "genserve.db").write_text("this is no database, but long enough" * 100)
    [taken] = listen("127.0.0.1", 0)
    with taken:
        port = taken.getsockname()[1]
        write_config(tmp_path, {"server": {"port": port}, "models": {"m": {"family": "flux"}}})
        done = genserve(tmp_path, "doctor")
    assert done.returncode == 1
    for named in ("PROBLEM database", "PROBLEM port", "PROBLEM models", "→"):
        assert named.split()[0] in done.stdout
        assert named.split()[-1] in done.stdout


def test_every_benchmark_measures_something(tmp_path):
    report = rows(genserve(tmp_path, "bench", "all", "--size", "1", "--json"))
    assert report["machine"]["cores"] >= 1
    assert 0 < report["machine"]["fsync_p50_ms"] <= report["machine"]["fsync_p99_ms"]
    measured = {one["benchmark"]: one["figures"] for one in report["benchmarks"]}
    assert set(measured) == {name.value for name in Benchmark} - {"all"}
    for name, figures in measured.items():
        assert all(math.isfinite(figure["value"]) for figure in figures), name
        assert any(figure["value"] > 0 for figure in figures), name
        refused = [f["value"] for f in figures if f["name"] in ("failed", "not accepted")]
        assert not any(refused), name
    assert list(tmp_path.iterdir()) == []


def test_one_benchmark_for_people(tmp_path):
    done = genserve(tmp_path, "bench", "queue", "--size", "200")
    assert done.returncode == 0, done.stderr
    assert "durable enqueues" in done.stdout
    assert "machine:" in done.stdout
