"""The command line's pure parts: the banner, sockets, the load client, and what `bench` reports."""

import asyncio
import json
import shlex
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genserve.cli import banner, sockets
from genserve.cli.bench import load
from genserve.cli.bench.report import Figure, percentile
from genserve.cli.drawing import Stage
from genserve.cli.exits import Exit, exit_code
from genserve.cli.options import server_url
from genserve.config import DEFAULT_API_KEY, Config
from genserve.errors import ConfigError, PortInUse, ServerUnreachable, TaskCancelled, all_errors


def test_the_banners_curl_is_one_line_that_a_shell_understands():
    words = shlex.split(banner.curl("http://127.0.0.1:12411", default_key=True))
    assert words[0] == "curl"
    assert json.loads(words[words.index("-d") + 1])["prompt"] == banner.PROMPT
    assert words[-2:] == ["-o", "cat.png"]
    assert f"Authorization: Bearer {DEFAULT_API_KEY}" in words


def test_without_any_model_the_banner_promises_no_picture():
    text = banner.banner("http://h", default_key=True, key_names=[], stand_in=None, can_draw=False)
    assert "No model is installed" in text
    assert "curl" not in text


def test_with_real_keys_the_banner_shows_a_placeholder_and_a_name():
    text = banner.banner(
        "http://h", default_key=False, key_names=["developer"], stand_in=None, can_draw=True
    )
    assert "YOUR_API_KEY" in text
    assert '"developer"' in text
    assert DEFAULT_API_KEY not in text


def test_a_port_in_use_is_told_by_name():
    [first] = sockets.listen("127.0.0.1", 0)
    port = first.getsockname()[1]
    with first, pytest.raises(PortInUse) as caught:
        sockets.listen("127.0.0.1", port)
    assert caught.value.params == {"host": "127.0.0.1", "port": port}


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7", "a..b"])
def test_an_address_that_is_not_ours_is_a_configuration_error(host):
    with pytest.raises(ConfigError) as caught:
        sockets.listen(host, 0)
    assert host in caught.value.detail("en")


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_loopback_is_told_from_other_addresses(host, loopback):
    opened = sockets.listen(host, 0)
    assert sockets.is_loopback(opened) is loopback
    for one in opened:
        one.close()


def test_every_address_of_a_name_gets_the_same_port():
    opened = sockets.listen("localhost", 0)
    assert len({one.getsockname()[1] for one in opened}) == 1
    assert sockets.is_loopback(opened)
    for one in opened:
        one.close()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:12411"),
        ("0.0.0.0", "http://127.0.0.1:12411"),
        ("::", "http://[::1]:12411"),
        ("::1", "http://[::1]:12411"),
    ],
)
def test_where_the_command_line_looks_for_the_server(host, url):
    config = Config.model_validate({"server": {"host": host}})
    assert server_url(config, None) == url
    assert server_url(config, "http://elsewhere/") == "http://elsewhere"


def test_every_error_has_an_exit_code():
    for cls in all_errors().values():
        assert exit_code(cls(**dict.fromkeys(cls.names, "x"))) in set(Exit) - {Exit.OK}
    assert exit_code(ServerUnreachable(url="x")) is Exit.UNREACHABLE
    assert exit_code(ConfigError(problem="x")) is Exit.USAGE
    assert exit_code(TaskCancelled()) is Exit.FAILED


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_is_a_measured_value_that_the_share_does_not_exceed(values, share):
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)


def test_a_figure_says_whether_its_goal_is_reached():
    assert Figure("x", 1, "s", at_most=2).reached
    assert not Figure("x", 1, "s", at_least=2).reached
    assert Figure("x", 1, "s").reached is None
    assert "MISSED" in str(Figure("x", 1, "s", at_least=2))


@pytest.mark.parametrize(
    ("kind", "data", "stage"),
    [
        ("queued", {"position": 3}, Stage("waiting, number 3 in the queue")),
        ("loading", {"model": "m"}, Stage("loading m")),
        ("progress", {"step": 2, "total": 5}, Stage("drawing", 2, 5)),
        ("finished", {}, Stage("finished")),
    ],
)
def test_a_stage_says_how_far_a_task_is(kind, data, stage):
    assert Stage.of(kind, data) == stage


async def test_the_load_client_counts_answers_that_come_in_pieces():
    received = []

    async def serve(reader, writer):
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                received.append(head.split(b"\r\n")[0])
                await reader.readexactly(2)
                status = b"202 Accepted" if len(received) % 2 else b"429 Too Many Requests"
                for piece in (
                    b"HTTP/1.1 " + status,
                    b"\r\nContent-Length: 4\r\n",
                    b"\r\nab",
                    b"cd",
                ):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    requests = iter([load.post(url, "/generate", "key", b"{}")] * 10)
    outcome = await load.send_all(url, requests, connections=1)
    server.close()
    await server.wait_closed()
    assert outcome.statuses == {202: 5, 429: 5}
    assert len(outcome.latencies_s) == 10
    assert set(received) == {b"POST /generate HTTP/1.1"}
