"""A load client that costs little: prepared requests over kept connections, no HTTP library.

It reads just enough of each answer to know its status and its end, since whatever the client takes
of the cores, the server does not get.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(slots=True)
class Outcome:
    """What became of the requests: how many of each status, and how long each took."""

    statuses: Counter[int] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0


class _Connection(asyncio.Protocol):
    """Sends the next request as soon as the last one is answered, until there are none."""

    def __init__(self, requests: Iterator[bytes], outcome: Outcome) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._outcome = outcome
        self._received = b""
        self._sent_at = 0.0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, because uvloop's transports are not of asyncio's classes.
        self._transport = cast(asyncio.WriteTransport, transport)
        self._send_next()

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._received[: end + 2]
        length = LENGTH.search(head)
        if length is None or len(self._received) < end + 4 + int(length.group(1)):
            return
        self._outcome.statuses[int(head[9:12])] += 1
        self._outcome.latencies_s.append(time.perf_counter() - self._sent_at)
        self._received = b""
        self._send_next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))

    def _send_next(self) -> None:
        assert self._transport is not None
        request = next(self._requests, None)
        if request is None:
            if not self.done.done():
                self.done.set_result(None)
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)


def post(url: str, path: str, key: str, body: bytes, *headers: str) -> bytes:
    """A request, ready to be sent. `headers` as "Name: value"."""
    head = (
        f"POST {path} HTTP/1.1",
        f"Host: {urlsplit(url).netloc}",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    )
    return "\r\n".join((*head, "", "")).encode() + body


async def send_all(url: str, requests: Iterator[bytes], *, connections: int) -> Outcome:
    """Send every request over so many connections. Raises `OSError`."""
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or 80
    loop, outcome = asyncio.get_running_loop(), Outcome()
    began_at = time.perf_counter()
    opened = [
        await loop.create_connection(lambda: _Connection(requests, outcome), host, port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(connection.done for _, connection in opened))
    outcome.elapsed_s = time.perf_counter() - began_at
    return outcome
