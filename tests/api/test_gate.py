"""The caps on a body, and the log line of a request."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive

from genserve.api.gate import Exchange
from genserve.errors import TooLarge, TooSlow
from tests.api.test_generate import ask
from tests.serving import RunningServer


def exchange(
    chunks: Sequence[int], *, limit: int, declared: int = 0, receive: Receive | None = None
) -> Exchange:
    """An exchange whose client sends pieces of these sizes, and then nothing more."""
    left = list(chunks)

    async def pieces() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        size = left.pop(0)
        return {"type": "http.request", "body": bytes(size), "more_body": bool(left)}

    async def send(message: Any) -> None:
        raise AssertionError("nothing is sent here")

    return Exchange(
        receive or pieces,
        send,
        headers=[],
        max_bytes=limit,
        timeout_s=0.05,
        declared_bytes=declared,
    )


@given(st.lists(st.integers(0, 50), min_size=1, max_size=10), st.integers(0, 200))
def test_a_body_is_cut_exactly_at_the_limit(chunks: list[int], limit: int) -> None:
    async def read() -> int:
        sent, total = exchange(chunks, limit=limit), 0
        while True:
            message = await sent.receive()
            total += len(message["body"])
            if not message["more_body"]:
                return total

    if sum(chunks) > limit:
        with pytest.raises(TooLarge):
            asyncio.run(read())
    else:
        assert asyncio.run(read()) == sum(chunks)


async def test_a_declared_length_is_refused_before_anything_is_read() -> None:
    with pytest.raises(TooLarge, match="64 KiB"):
        await exchange([], limit=65536, declared=65537).receive()


async def test_the_deadline_covers_the_whole_body() -> None:
    left = 1000

    async def trickle() -> dict[str, Any]:
        nonlocal left
        left -= 1
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": left > 0}

    async def read_all() -> None:
        while left:
            await sent.receive()

    sent = exchange([], limit=10_000, receive=trickle)
    with pytest.raises(TooSlow):
        await read_all()
    assert left > 900


async def test_after_the_body_a_client_may_be_waited_for_without_end() -> None:
    sent = exchange([1], limit=10)
    await sent.receive()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sent.receive(), 0.15)


def test_the_log_names_the_task_but_neither_prompt_nor_query(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    client = server.client("generation", **{"X-Request-Id": "log-me"})
    task_id = client.post("/generate", json=ask("a private prompt")).json()["task_id"]
    client.get("/images/x.png", params={"signature": "a-private-signature"})
    client.get("/a%0Ab")
    lines = [line for line in capsys.readouterr().out.splitlines() if "log-me" in line]
    assert len(lines) == 3
    assert task_id in lines[0]
    assert "key-that-0001" in lines[0]
    assert "/a%0Ab" in lines[2]
    assert not any("private" in line for line in lines)
