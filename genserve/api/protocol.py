"""How the server speaks HTTP/1.1: uvicorn's httptools protocol, with the limits it lacks.

uvicorn waits for ever for a request's headers, takes any amount of them, and after an early answer
goes on reading a body that nobody wants (Kludex/uvicorn#157). Here a connection whose headers are
late or too large is cut, and one that was answered before its request had arrived is closed.
"""

import asyncio
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from genserve.config import Server

MAX_HEADER_BYTES = 64 * 1024
_ANSWER = b"HTTP/1.1 %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
TOO_SLOW = _ANSWER % b"408 Request Timeout"
TOO_LARGE = _ANSWER % b"431 Request Header Fields Too Large"


class LimitedProtocol(HttpToolsProtocol):
    """Cuts slow and huge headers. The deadline is absolute: trickling bytes do not move it.

    It runs from the connection's start, and on a kept connection from the next request's first
    byte; while a connection is idle between requests, uvicorn's own keep-alive timeout runs.
    """

    header_timeout_s: float = 10

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._headers_due: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._receiving = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # Line breaks between requests begin no message but do end uvicorn's keep-alive timeout.
        if not self._receiving and self._answered:
            self._expect_headers()
        super().data_received(data)
        if self._headers_due is not None:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self._cut(TOO_LARGE)

    def on_message_begin(self) -> None:
        self._receiving = True
        self._expect_headers()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._headers_arrived()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._receiving = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._receiving and not self.pipeline:
            self.transport.close()
        super().on_response_complete()

    @property
    def _answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _expect_headers(self) -> None:
        if self._headers_due is None:
            self._header_bytes = 0
            self._headers_due = self.loop.call_later(self.header_timeout_s, self._cut, TOO_SLOW)

    def _headers_arrived(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _cut(self, answer: bytes) -> None:
        self._headers_arrived()
        if self.transport.is_closing():
            return
        if self._answered:
            self.transport.write(answer)
        self.transport.close()


def server_config(app: FastAPI, server: Server) -> uvicorn.Config:
    """uvicorn's settings for `app`.

    Forwarding headers are left to `addresses`, which believes configured proxies only, and the
    log to `gate`. The caller starts and stops the runtime, so there is no lifespan.
    """
    protocol = type("Protocol", (LimitedProtocol,), {"header_timeout_s": server.header_timeout_s})
    return uvicorn.Config(
        app,
        host=server.host,
        port=server.port,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
