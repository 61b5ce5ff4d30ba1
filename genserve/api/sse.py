"""Server-sent events: the wire format, and comments that keep a quiet connection open."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from starlette.responses import StreamingResponse

PING_EVERY_S = 15.0
"""Below the idle timeouts of common proxies (nginx: 60 s)."""
RETRY_MS = 2000
"""When a client that lost its connection should come back."""


class EventStream(StreamingResponse):
    """An answer of `text/event-stream`."""

    media_type = "text/event-stream"


def event_stream(messages: AsyncGenerator[str, None]) -> EventStream:
    """`messages` as an answer that no proxy may hold back."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return EventStream(with_pings(messages, PING_EVERY_S), headers=headers)


def message(event_id: str, kind: str, data: Mapping[str, Any]) -> str:
    """One event; its data is a single line of JSON."""
    content = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"id: {event_id}\nevent: {kind}\ndata: {content}\n\n"


async def with_pings(messages: AsyncGenerator[str, None], every_s: float) -> AsyncIterator[bytes]:
    """`messages`, with a comment whenever there was none for `every_s` seconds."""
    yield f"retry: {RETRY_MS}\n\n".encode()
    upcoming: asyncio.Task[str] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.create_task(_next(messages))
            done, _ = await asyncio.wait({upcoming}, timeout=every_s)
            if not done:
                yield b": ping\n\n"
                continue
            finished, upcoming = upcoming, None
            try:
                yield finished.result().encode(errors="replace")
            except StopAsyncIteration:
                return
    finally:
        if upcoming is None:
            await messages.aclose()
        else:  # `messages` waits inside it and is unwound from there
            upcoming.cancel()


async def _next(messages: AsyncGenerator[str, None]) -> str:
    return await anext(messages)
