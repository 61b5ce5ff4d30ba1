"""Runs the server: the runtime, uvicorn on top of it, and an orderly end."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import typer
import uvicorn
import uvloop

from genserve import logs
from genserve.api.app import create_app
from genserve.api.protocol import server_config
from genserve.cli.banner import banner
from genserve.cli.exits import Exit
from genserve.cli.sockets import is_loopback
from genserve.config import Config
from genserve.core.runtime import Runtime

log = structlog.get_logger("genserve.server")

CLOSING_S = 5
"""How long, after the last task, a client may take to read its answer."""


def run_server(
    config: Config, sockets: list[socket.socket], *, reread: Callable[[], Config]
) -> Exit:
    """Serve until a signal says otherwise. Raises `StartupError`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, sockets, reread))


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: a first SIGTERM must drain before it closes."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Signals:
    """SIGTERM and SIGINT: the first asks for an orderly end, the second ends the process.

    Ending it is safe at any moment: what was accepted is in the database, worker processes die with
    their parent, and the next start puts what they were doing back into the queue.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._received)

    def _received(self) -> None:
        if self.stop.is_set():
            log.warning("stopping at once; running tasks go back into the queue")
            os._exit(Exit.FAILED)
        self.stop.set()


async def _serve(
    config: Config, sockets: list[socket.socket], reread: Callable[[], Config]
) -> Exit:
    signals = _Signals()
    runtime = await Runtime.start(
        config,
        reread=reread,
        exposed=not is_loopback(sockets),
        import_keys_from=(Path.cwd(), config.data_dir),
    )
    if sys.stderr.isatty():
        logs.keep_in(config.data_dir / "logs", config.log.prompts)
    try:
        settings = server_config(create_app(runtime), config.server)
        settings.timeout_graceful_shutdown = CLOSING_S
        server = _Server(settings)
        serving = asyncio.create_task(server.serve(sockets=sockets), name="http")
        await _until_ready(server, serving)
        _tell_ready(runtime, sockets)
        stopping = asyncio.create_task(signals.stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await _end(runtime, server, serving, config.server.drain_s)
    finally:
        await runtime.stop()
    return Exit.OK


async def _until_ready(server: _Server, serving: asyncio.Task[None]) -> None:
    while not server.started and not serving.done():
        await asyncio.sleep(0.002)


def _tell_ready(runtime: Runtime, sockets: list[socket.socket]) -> None:
    host, port = sockets[0].getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not a binding
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    log.info("ready", url=url)
    models = runtime.catalog.models()
    stand_ins = [
        entry.served_by for entry in models if entry.served_by not in (None, entry.spec.id)
    ]
    text = banner(
        url,
        default_key=runtime.keys.default_key_active and is_loopback(sockets),
        key_names=[key.name for key in runtime.config.keys.declared],
        stand_in=stand_ins[0] if stand_ins else None,
        can_draw=any(entry.served_by for entry in models),
    )
    typer.echo(text)


async def _end(
    runtime: Runtime, server: _Server, serving: asyncio.Task[None], drain_s: float
) -> None:
    """Drain while answers can still be read, then close the connections."""
    log.info("stopping", drain_s=drain_s, hint="a second signal stops at once")
    await runtime.drain()
    server.should_exit = True
    await serving
