"""A real server for tests: the whole runtime on the fake family, over a loopback socket.

    with serving(tmp_path, queue={"max_tasks": 2}) as server:
        answer = server.client("generation").get("/tasks")

The documented model ids are served by the fake family, so the users' examples run as they are.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import uvicorn

from genserve.api.app import create_app
from genserve.api.protocol import server_config
from genserve.config import Config
from genserve.core.runtime import Runtime

T = TypeVar("T")

KEYS = {
    "generation": "key-that-may-generate-0001",
    "readonly": "key-that-may-only-read-02",
    "both": "key-that-may-do-both-0003",
    "admin": "key-of-the-administrator-4",
    "all": "key-that-may-do-all-00005",
    "stranger": "key-of-somebody-else-0006",
}
PERMISSIONS = {"both": ["generation", "readonly"], "stranger": ["generation", "readonly"]}
_FAKE = {"family": "fake", "multiple_of": 8}
MODELS: dict[str, dict[str, Any]] = {
    "flux1-dev": {"modes": ["text2img", "img2img"], "schedulers": ["euler", "heun"]},
    "flux1-fill-dev": {"modes": ["text2img", "img2img", "fill"]},
    "flux1-depth-dev": {"modes": ["controlnet"], "control_types": ["depth"]},
    "flux1-canny-dev": {"modes": ["controlnet"], "control_types": ["canny"]},
    "flux1-openpose-dev": {"modes": ["controlnet"], "control_types": ["openpose"]},
    "flux1-redux-dev": {"modes": ["redux"]},
    "flux1-kontext-dev": {"modes": ["edit", "text2img"], "vaes": True},
    "missing-dev": {"family": "flux"},
}


def serving_config(folder: Path, **settings: Any) -> Config:
    """One CPU worker, the fake family, a key for each permission; `settings` replace sections."""
    declared = [
        {
            "key": key,
            "name": name,
            "permissions": PERMISSIONS.get(name, [name]),
            "variable": f"API_KEY_{number}",
        }
        for number, (name, key) in enumerate(KEYS.items(), start=1)
    ]
    defaults = {
        "data_dir": folder / "data",
        "models_dir": folder / "models",
        "loras_dir": folder / "loras",
        "keys": {"declared": declared},
        "pool": {"devices": "cpu:1", "threads": 1},
        "models": {name: _FAKE | more for name, more in MODELS.items()},
        "api": {"rate_limit": "100000/minute", "auth_failure_limit": "100000/minute"},
    }
    return Config.model_validate(defaults | settings)


class RunningServer:
    """A server in a thread of its own. `runtime` belongs to that thread: go through `call`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.reread: Callable[[], Config] = lambda: self.config
        """What reloading the keys reads; a test may replace it."""
        self.runtime: Runtime
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}"
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="server under test")
        self._clients: list[httpx2.Client] = []

    def start(self) -> None:
        """Return when requests are answered."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def stop(self) -> None:
        """Stop serving, end the runtime and every process of it."""
        for client in self._clients:
            client.close()
        self._uvicorn.should_exit = True
        self._uvicorn.force_exit = True
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def client(self, key: str | None = None, **headers: str) -> httpx2.Client:
        """A client with one of `KEYS` by name, or any other key, or none."""
        given = {"Accept-Language": "en", **headers}
        if key is not None:
            given["Authorization"] = f"Bearer {KEYS.get(key, key)}"
        client = httpx2.Client(
            base_url=self.base_url, headers=given, timeout=60, trust_env=False, verify=False
        )
        self._clients.append(client)
        return client

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - carried over to the thread that waits
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.runtime = await Runtime.start(self.config, reread=lambda: self.reread())
        try:
            app = create_app(self.runtime)
            self._uvicorn = uvicorn.Server(server_config(app, self.config.server))
            serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._socket]))
            while not self._uvicorn.started and not serving.done():
                await asyncio.sleep(0.01)
            self._ready.set()
            await serving
        finally:
            await self.runtime.stop(drain_s=0)


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[RunningServer]:
    """A running server whose data lies in `folder`."""
    server = RunningServer(serving_config(folder, **settings))
    server.start()
    try:
        yield server
    finally:
        server.stop()
