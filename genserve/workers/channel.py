"""The child's end of the pipe, and what a child is told when it starts.

Synchronous and single-threaded: while it draws, a child looks for a `Cancel` between two steps.
"""

import socket
from pathlib import Path
from typing import Literal

from genserve.domain.request import Value
from genserve.workers.messages import MAX_LINE_BYTES, TO_CHILD, ToChild, to_line

_CHUNK_BYTES = 65_536


class ChildSettings(Value):
    """All that a child must know to start: its only command line argument, as JSON."""

    worker: str
    fd: int
    parent_pid: int
    device: Literal["cpu", "cuda"]
    device_name: str
    threads: int
    memory_bytes: int
    """What resident models may take together."""
    lora_cache_bytes: int = 2**30
    """CPU memory for LoRA files that were read."""
    lora_device_bytes: int = 0
    """Device memory for the original weights under LoRAs."""
    families: tuple[str, ...] = ()
    """Families whose code is imported before `Ready`, so that a broken install shows at start."""
    run_folder: Path
    """Holds the device's lock and the recorded canaries."""
    restarted: bool = False
    """An earlier process on this device died: pictures are compared with the canary."""


class ParentGone(Exception):
    """The other end is closed: nobody waits for anything any more."""


class Channel:
    """Sends to and receives from the parent over a stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = bytearray()

    def send(self, message: Value) -> None:
        """Write one message; blocks while the pipe is full. Raises `ParentGone`."""
        try:
            self._sock.sendall(to_line(message))
        except OSError:
            raise ParentGone from None

    def receive(self) -> ToChild:
        """Wait for the next message. Raises `ParentGone`."""
        while (message := self._next()) is None:
            self._read(flags=0)
        return message

    def poll(self) -> ToChild | None:
        """The next message if one is there already. Raises `ParentGone`."""
        message = self._next()
        if message is None:
            self._read(flags=socket.MSG_DONTWAIT)
            message = self._next()
        return message

    def _next(self) -> ToChild | None:
        line, newline, rest = self._received.partition(b"\n")
        if not newline:
            return None
        self._received = rest
        return TO_CHILD.validate_json(bytes(line))

    def _read(self, flags: int) -> None:
        try:
            chunk = self._sock.recv(_CHUNK_BYTES, flags)
        except BlockingIOError:
            return
        except OSError:
            raise ParentGone from None
        if not chunk or len(self._received) > MAX_LINE_BYTES:
            raise ParentGone
        self._received += chunk
