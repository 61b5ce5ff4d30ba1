"""One child process as asyncio sees it: a pipe, its output, its end.

The process is started with `Popen` and not with `multiprocessing`: so no import leads from the
server to what the child imports. It must be started from a thread that lives as long as the
server, see `orphans.die_with`.
"""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import genserve

LAST_WORDS_S = 1.0
"""How long a process may live on after closing its pipe, and its pipe after its end."""
MAX_OUTPUT_LINE = 16_384
"""Bytes: a traceback is one line, see `output`."""
_PACKAGE_ROOT = Path(genserve.__file__).parent.parent


def child_environment(inherited: Mapping[str, str], **own: str) -> dict[str, str]:
    """`inherited` and `own` variables, such that the child imports this same package."""
    path = os.pathsep.join(filter(None, (str(_PACKAGE_ROOT), inherited.get("PYTHONPATH"))))
    return {**inherited, **own, "PYTHONPATH": path}


def describe_exit(code: int) -> str:
    """An exit code in words, as `Popen` tells it: negative for a signal."""
    if code >= 0:
        return f"it ended with exit code {code}"
    with suppress(ValueError):
        return f"it was killed by {signal.Signals(-code).name}"
    return f"it was killed by signal {-code}"


class ChildProcess:
    """A started process. `lines` until it ends, then `ended` says how; `close` in any case."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._output: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        argument: Callable[[int], str],
        environment: Mapping[str, str],
        *,
        on_output: Callable[[str], None] | None = None,
        limit_bytes: int = 65_536,
    ) -> "ChildProcess":
        """Start `command` with one more argument, made from its end of the pipe (a file number).

        `on_output` gets each line of its stdout and stderr; without it they are discarded.
        `limit_bytes` bounds a line from the pipe. Raises `OSError`.
        """
        ours, theirs = socket.socketpair()
        output = subprocess.DEVNULL if on_output is None else subprocess.PIPE
        try:
            with theirs:
                process = subprocess.Popen(
                    [*command, argument(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=dict(environment),
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # its own group: ended with all it started
                )
        except OSError:
            ours.close()
            raise
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=limit_bytes)
        child = cls(process, reader, writer)
        if on_output is not None:
            child._output = asyncio.create_task(child._forward(on_output))
        return child

    @property
    def pid(self) -> int:
        """The process id, which is also its group's."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process has not ended yet."""
        return not self._ended.done()

    def write(self, data: bytes) -> None:
        """Send to the process. One that is gone is noticed by its end, not here."""
        if not self._writer.is_closing():
            self._writer.write(data)

    async def drain(self) -> None:
        """Wait until what was written is mostly sent. Raises `ConnectionError`."""
        await self._writer.drain()

    async def read_exactly(self, size: int) -> bytes:
        """The next `size` bytes. Raises `asyncio.IncompleteReadError`."""
        return await self._reader.readexactly(size)

    async def lines(self) -> AsyncIterator[bytes]:
        """Every line the process sends, to the last one, also when it was killed.

        A process that closes its pipe and lives on, or sends a line that is too long, is killed.
        """
        with suppress(ConnectionError, ValueError):
            while line := await self._reader.readline():
                yield line
        if self.alive:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._ended), LAST_WORDS_S)
        self.kill()

    async def ended(self) -> int:
        """Wait for the end; the exit code, negative for a signal."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """End the process and all of its group at once."""
        if self.alive:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # Not yet waited for, so the number still is this group's: end what it left behind.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._ended.set_result(self._process.wait())

    async def _forward(self, on_output: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        reader = asyncio.StreamReader()
        transport, _ = await self._loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._process.stdout
        )
        try:
            rest = b""
            while chunk := await reader.read(65_536):
                *lines, rest = (rest + chunk).split(b"\n")
                rest = rest[-MAX_OUTPUT_LINE:]
                for line in lines:
                    on_output(line[:MAX_OUTPUT_LINE].decode(errors="replace"))
            if rest:
                on_output(rest.decode(errors="replace"))
        finally:
            transport.close()

    async def close(self) -> None:
        """End the process if it lives, and give back everything."""
        self.kill()
        await self._ended
        if self._output is not None:
            _, late = await asyncio.wait({self._output}, timeout=LAST_WORDS_S)
            for task in late:  # a grandchild in a session of its own still holds the output
                task.cancel()
            await asyncio.gather(self._output, return_exceptions=True)
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()
