"""A client that goes on sending a body that was refused reads the answer all the same."""

import socket
import time
from collections.abc import Iterator

import pytest

from genserve.api import gate
from tests.serving import KEYS, RunningServer, serving

MIB = 1024 * 1024
PIECE = 64 * 1024
KEY = f"X-API-Key: {KEYS['generation']}"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that takes 1 MiB."""
    api = {"max_body_mib": 1, "rate_limit": "10000/minute", "auth_failure_limit": "10000/minute"}
    with serving(tmp_path_factory.mktemp("small"), api=api) as running:
        yield running


class Stubborn:
    """Sends and sends, and does not look at what comes back."""

    def __init__(self, server: RunningServer, *head: str) -> None:
        self._connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        text = "\r\n".join(["POST /generate HTTP/1.1", "Host: localhost", *head, "", ""])
        self._connection.sendall(text.encode())

    def __enter__(self) -> "Stubborn":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(self, size: int, *, pause_s: float = 0.0, chunked: bool = False) -> None:
        head, tail = (f"{PIECE:x}\r\n".encode(), b"\r\n") if chunked else (b"", b"")
        for _ in range(size // PIECE):
            self._connection.sendall(head + b" " * PIECE + tail)
            time.sleep(pause_s)

    def read(self) -> bytes:
        received = b""
        while chunk := self._connection.recv(65536):
            received += chunk
        return received


@pytest.mark.parametrize(
    ("head", "chunked"),
    [(f"Content-Length: {4 * MIB}", False), ("Transfer-Encoding: chunked", True)],
)
def test_three_mebibytes_too_many_sent_slowly(
    small: RunningServer, head: str, chunked: bool
) -> None:
    with Stubborn(small, KEY, head) as client:
        client.send(4 * MIB, pause_s=0.005, chunked=chunked)
        answer = client.read()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b"}")
    assert b'"code":"body_too_large"' in answer


def test_so_is_one_without_a_key(small: RunningServer) -> None:
    with Stubborn(small, f"Content-Length: {3 * MIB}") as client:
        client.send(3 * MIB)
        assert client._connection.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_the_answer_does_not_wait_for_the_rest(small: RunningServer) -> None:
    """The client has all of it while its own body is still on the way."""
    with Stubborn(small, KEY, f"Content-Length: {4 * MIB}") as client:
        received = b""
        while b'"task_id":null}' not in received:
            chunk = client._connection.recv(65536)
            assert chunk, "closed before the answer"
            received += chunk
        client.send(4 * MIB)


def test_nobody_is_listened_to_for_ever(small: RunningServer) -> None:
    """The connection ends although the client would have gone on."""
    with Stubborn(small, KEY, f"Content-Length: {1024 * MIB}") as client, pytest.raises(OSError):
        client.send(gate.LINGER_BYTES + 64 * MIB)


def test_the_time_spent_listening_is_not_the_requests(
    small: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with Stubborn(small, KEY, "X-Request-Id: lingering", f"Content-Length: {4 * MIB}") as client:
        began_at = time.perf_counter()
        client.send(4 * MIB, pause_s=0.02)
        client.read()
        sent_s = time.perf_counter() - began_at
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "lingering" in line)
    assert float(line.partition("duration_ms=")[2].split()[0]) / 1000 < sent_s / 2


def test_a_connection_whose_body_came_whole_is_kept(small: RunningServer) -> None:
    with Stubborn(small, f"Content-Length: {PIECE}") as client:
        client.send(PIECE)
        connection = client._connection
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        while b"200 OK" not in received:
            received += connection.recv(65536)
