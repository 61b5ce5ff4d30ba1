"""Kill a loaded server and its workers, again and again, and keep the ledger.

`python -m tests.chaos.run --server-kills 10 --worker-kills 20` prints the verdict and exits with
1 when a promise was broken.
"""

import argparse
import asyncio
import random
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import httpx2
import yaml

from tests.chaos import processes
from tests.chaos.ledger import Verdict, audit

KEY = "chaos-key-of-the-ledger-test"
GONE_WITHIN_S = 5.0
"""How long after a server's death its last child may live."""
SETTLE_S = 120.0


def write_config(folder: Path, workers: int) -> Path:
    """A configuration with nothing but the fake family in it."""
    config = {
        "data_dir": str(folder / "data"),
        "models_dir": str(folder / "models"),
        "loras_dir": str(folder / "loras"),
        "api": {"rate_limit": "1000000/minute"},
        "keys": {"declared": [{"key": KEY, "name": "chaos", "permissions": ["all"]}]},
        "pool": {"devices": f"cpu:{workers}"},
        "log": {"format": "json"},
        "models": {"fake": {"family": "fake", "multiple_of": 8}},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


class Server:
    """A `genserve serve` process that can be killed and started again on the same port."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder
        self._config = write_config(folder, workers)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The running server's process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers."""
        command = [sys.executable, "-m", "genserve", "serve", "--config", str(self._config)]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(self._port)],
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if httpx2.get(f"{self.url}/healthz", timeout=2).status_code == 200:
                    return
            except httpx2.TransportError:
                time.sleep(0.05)
            if self._process.poll() is not None:
                break
        raise RuntimeError(f"the server did not start; see {self._folder / 'server.log'}")

    def kill(self) -> list[int]:
        """SIGKILL; returns the children that outlived it."""
        children = processes.descendants(self.pid)
        processes.kill(self.pid)
        self._wait()
        left = processes.wait_until_gone(children, GONE_WITHIN_S)
        for pid in left:
            processes.kill(pid)
        return left

    def stop(self) -> list[int]:
        """SIGTERM and wait; returns the children that outlived it."""
        assert self._process is not None
        children = processes.descendants(self.pid)
        self._process.terminate()
        self._wait()
        return processes.wait_until_gone(children, GONE_WITHIN_S)

    def _wait(self) -> None:
        assert self._process is not None
        self._process.wait(timeout=60)


class Load:
    """Clients that submit all the time and note what was acknowledged.

    A client whose connection broke asks again with the same Idempotency-Key, as a careful user
    does: so an unanswered submission is not lost, and not done twice.
    """

    def __init__(self, url: str, rng: random.Random) -> None:
        self._url = url
        self._rng = rng
        self.acknowledged: set[str] = set()
        self.stopping = False

    async def run(self, clients: int) -> None:
        """Submit until `stopping` is set."""
        async with httpx2.AsyncClient(base_url=self._url, timeout=10) as http:
            await asyncio.gather(*(self._client(http, number) for number in range(clients)))

    async def _client(self, http: httpx2.AsyncClient, number: int) -> None:
        count = 0
        while not self.stopping:
            count += 1
            await self._submit(http, f"{number}-{count}")
            await asyncio.sleep(self._rng.uniform(0.02, 0.1))

    async def _submit(self, http: httpx2.AsyncClient, name: str) -> None:
        body = {
            "model_id": "fake",
            "prompt": f"{name} fake:sleep=0.05",
            "width": 64,
            "height": 64,
            "num_inference_steps": 2,
            "async": True,
        }
        headers = {"X-API-Key": KEY, "Idempotency-Key": name}
        while True:
            try:
                answer = await http.post("/generate", json=body, headers=headers)
            except httpx2.TransportError:
                await asyncio.sleep(0.1)
                continue
            if answer.status_code == 202:
                self.acknowledged.add(answer.json()["task_id"])
                return
            if answer.status_code not in (429, 503):
                raise RuntimeError(f"{answer.status_code}: {answer.text}")
            await asyncio.sleep(0.2)


async def chaos(folder: Path, *, server_kills: int, worker_kills: int, seed: int = 0) -> Verdict:
    """Run the load, kill as often as asked at random moments, and audit."""
    rng = random.Random(seed)
    server = Server(folder, workers=2)
    server.start()
    load = Load(server.url, rng)
    clients = asyncio.create_task(load.run(clients=6))
    orphans: list[int] = []
    kills = ["server"] * server_kills + ["worker"] * worker_kills
    rng.shuffle(kills)
    try:
        for kind in kills:
            await asyncio.sleep(rng.uniform(0.1, 1.0))
            if kind == "server":
                orphans += await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            else:
                await _kill_a_worker(server, rng)
        await asyncio.sleep(0.5)
        load.stopping = True
        await clients
        await _settle(server.url)
    finally:
        load.stopping = True
        clients.cancel()
        orphans += await asyncio.to_thread(server.stop)
    verdict = audit(folder / "data", load.acknowledged)
    verdict.orphans = orphans
    return verdict


async def _kill_a_worker(server: Server, rng: random.Random) -> None:
    for _ in range(200):
        running = processes.workers(server.pid)
        if running:
            processes.kill(rng.choice(running))
            return
        await asyncio.sleep(0.05)
    raise RuntimeError("no worker came up to be killed")


async def _settle(url: str) -> None:
    """Wait until nothing waits and nothing runs."""
    headers = {"X-API-Key": KEY}
    deadline = time.monotonic() + SETTLE_S
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=10) as http:
        while time.monotonic() < deadline:
            left = 0
            for state in ("pending", "processing"):
                answer = await http.get("/tasks", params={"status": state, "limit": 1})
                left += len(answer.json()["tasks"])
            if not left:
                return
            await asyncio.sleep(0.2)
    raise RuntimeError(f"tasks were still unfinished after {SETTLE_S:g} s")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server-kills", type=int, default=10)
    parser.add_argument("--worker-kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="genserve-chaos-") as folder:
        verdict = asyncio.run(
            chaos(
                Path(folder),
                server_kills=asked.server_kills,
                worker_kills=asked.worker_kills,
                seed=asked.seed,
            )
        )
    for name, value in asdict(verdict).items():
        print(f"{name}: {value}")
    print("clean" if verdict.clean else "BROKEN")
    return 0 if verdict.clean else 1


if __name__ == "__main__":
    sys.exit(main())
