"""The outermost layer: what happens to every request before and after its handler.

Pure ASGI, because Starlette's own middleware base class buffers. In order: give the request an id,
tell who calls from the headers alone and count the request, then cap what the handler can read of
the body, in bytes and in time. On the way out: the headers that every answer carries, some patience
with a client that still sends, one log line and the metrics. Nothing is refused here; the caps and
the identity's refusal are raised inside the handler, so that each dialect tells them in its own
shape.
"""

import asyncio
import random
import re
import time
from contextlib import suppress

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genserve.api.addresses import Proxies
from genserve.api.auth import Authenticator, Visit
from genserve.api.body import mebibytes
from genserve.core.limits import LimitState
from genserve.core.runtime import Runtime
from genserve.errors import TooLarge, TooSlow

log = structlog.get_logger()

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
CLIENT_GONE = 499
"""nginx's status for a client that hung up; nobody receives it, the log shows it."""
LINGER_BYTES = 16 * 1024 * 1024
LINGER_S = 5.0
LINGER_IDLE_S = 1.0
"""How much of a body that nobody wants is thrown away after the answer, for how long, and how long
without anything arriving. A connection that is closed while its client still sends is reset, and a
reset takes with it the answer that the client had not read yet."""


class Gate:
    """The ASGI middleware."""

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self._app = app
        self._runtime = runtime
        server, api = runtime.config.server, runtime.config.api
        self._authenticator = Authenticator(
            runtime.keys, runtime.limits, rate=api.rate_limit, bound_to=server.host
        )
        self._proxies = Proxies(server.trusted_proxies)
        self._public_url = server.public_url.rstrip("/") if server.public_url else None
        self._body_timeout_s = server.body_timeout_s
        self._max_bytes = mebibytes(api.max_body_mib)
        self._max_unauthenticated_bytes = api.max_unauthenticated_kib * 1024

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        visit = self._visit(scope)
        scope.setdefault("state", {})["visit"] = visit
        caller = visit.identity.caller
        exchange = Exchange(
            receive,
            send,
            headers=_common_headers(visit),
            max_bytes=self._max_bytes if caller else self._max_unauthenticated_bytes,
            timeout_s=self._body_timeout_s,
            declared_bytes=_declared_bytes(scope),
            has_body=_has_body(scope),
        )
        method = scope["method"]
        if method == "HEAD":  # the server sends no body for HEAD, so GET's handler can answer it
            scope = {**scope, "method": "GET"}
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(
            request_id=visit.request_id, key_id=caller.id if caller else None
        )
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            ended = exchange.answered_at or time.perf_counter()
            self._tell(scope, method, visit, exchange.status, ended - started)

    def _visit(self, scope: Scope) -> Visit:
        headers = Headers(scope=scope)
        peer = scope["client"][0] if scope["client"] else None
        scheme = scope["scheme"]
        address = self._proxies.client(peer, headers)
        given = headers.get("x-request-id", "")
        return Visit(
            request_id=given if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}",
            address=address,
            origin=self._public_url or self._proxies.origin(peer, scheme, headers),
            identity=self._authenticator.identify(
                headers, peer=peer, scheme=scheme, address=address
            ),
            authenticator=self._authenticator,
        )

    def _tell(
        self, scope: Scope, method: str, visit: Visit, status: int, duration_s: float
    ) -> None:
        route = scope.get("route")
        endpoint = getattr(route, "path", "other")
        self._runtime.metrics.observe_request(endpoint, method, status, duration_s)
        log.info(
            "request",
            method=method,
            path=scope["raw_path"].decode("latin-1"),
            status=status,
            duration_ms=round(duration_s * 1000, 1),
            address=visit.address,
        )


class Exchange:
    """One request's `receive` and `send`, with the caps on its body and the common headers."""

    __slots__ = (
        "_complete",
        "_declared_bytes",
        "_due",
        "_headers",
        "_max_bytes",
        "_read_bytes",
        "_receive",
        "_send",
        "_timeout_s",
        "answered_at",
        "status",
    )

    def __init__(
        self,
        receive: Receive,
        send: Send,
        *,
        headers: list[tuple[bytes, bytes]],
        max_bytes: int,
        timeout_s: float,
        declared_bytes: int,
        has_body: bool = True,
    ) -> None:
        self._receive = receive
        self._send = send
        self._headers = headers
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._declared_bytes = declared_bytes
        self._due = asyncio.get_running_loop().time() + timeout_s
        self._read_bytes = 0
        self._complete = not has_body
        self.status = CLIENT_GONE
        self.answered_at: float | None = None

    async def receive(self) -> Message:
        """The next piece of the body. Raises `TooLarge` and `TooSlow`."""
        if self._complete:
            return await self._receive()
        if self._declared_bytes > self._max_bytes:
            raise TooLarge(limit=_size(self._max_bytes))
        try:
            async with asyncio.timeout_at(self._due):
                message = await self._receive()
        except TimeoutError:
            raise TooSlow(limit_s=self._timeout_s) from None
        if message["type"] == "http.request":
            self._read_bytes += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
        if self._read_bytes > self._max_bytes:
            raise TooLarge(limit=_size(self._max_bytes))
        return message

    async def send(self, message: Message) -> None:
        """Pass an answer on, with the common headers added."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._headers]
        if message["type"] != "http.response.body" or message.get("more_body", False):
            await self._send(message)
            return
        self.answered_at = time.perf_counter()
        if self._complete:
            await self._send(message)
            return
        # All of the answer now, and its end when the client had its chance to read it.
        await self._send({**message, "more_body": True})
        await self._discard_rest()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _discard_rest(self) -> None:
        """Read on without keeping anything, within limits."""
        left = LINGER_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while left > 0 and not self._complete:
                    async with asyncio.timeout(LINGER_IDLE_S):
                        message = await self._receive()
                    left -= len(message.get("body", b""))
                    self._complete = not message.get("more_body", False)


def _declared_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _has_body(scope: Scope) -> bool:
    chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
    return chunked or _declared_bytes(scope) > 0


def _size(size_bytes: int) -> str:
    kib = size_bytes / 1024
    return f"{kib:g} KiB" if kib < 1024 else f"{kib / 1024:g} MiB"


def _common_headers(visit: Visit) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"x-request-id", visit.request_id.encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
    if visit.identity.limit is not None:
        headers += _limit_headers(visit.identity.limit)
    return headers


def _limit_headers(limit: LimitState) -> list[tuple[bytes, bytes]]:
    """draft-ietf-httpapi-ratelimit-headers-11, and the names that OpenAI's clients read."""
    return [
        (b"ratelimit-policy", b'"default";q=%d;w=%d' % (limit.limit, limit.window_s)),
        (b"ratelimit", b'"default";r=%d;t=%d' % (limit.remaining, limit.reset_s)),
        (b"x-ratelimit-limit-requests", b"%d" % limit.limit),
        (b"x-ratelimit-remaining-requests", b"%d" % limit.remaining),
        (b"x-ratelimit-reset-requests", b"%ds" % limit.reset_s),
    ]
