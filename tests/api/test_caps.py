"""How much of a body is read, and for how long: with honest, lying and absent lengths."""

import socket
from collections.abc import Iterator

import pytest

from tests.serving import KEYS, RunningServer, serving

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that takes 1 MiB and waits half a second for it."""
    api = {"max_body_mib": 1, "rate_limit": "10000/minute", "auth_failure_limit": "10000/minute"}
    with serving(
        tmp_path_factory.mktemp("small"), api=api, server={"body_timeout_s": 0.5}
    ) as running:
        yield running


def talk(
    server: RunningServer, head: list[str], body: bytes = b"", path: str = "/generate"
) -> bytes:
    """Send a request by hand; everything that is answered until the server closes."""
    text = "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *head, "", ""])
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        try:
            connection.sendall(text.encode() + body)
            while chunk := connection.recv(65536):
                received += chunk
        except (BrokenPipeError, ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
    return received


KEY = f"X-API-Key: {KEYS['generation']}"


def chunked(size: int) -> bytes:
    return (
        b"".join(b"10000\r\n" + b" " * 65536 + b"\r\n" for _ in range(size // 65536)) + b"0\r\n\r\n"
    )


def test_a_declared_length_over_the_limit_is_refused_unread(small: RunningServer) -> None:
    answer = talk(small, [KEY, f"Content-Length: {2 * MIB}"])
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"body_too_large"' in answer
    assert b"1 MiB" in answer
    assert b"connection: close" in answer.lower()


def test_chunks_over_the_limit_are_refused(small: RunningServer) -> None:
    answer = talk(small, [KEY, "Transfer-Encoding: chunked"], chunked(2 * MIB))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_chunks_below_the_limit_are_read(small: RunningServer) -> None:
    head = [KEY, "Transfer-Encoding: chunked", "Connection: close"]
    answer = talk(small, head, chunked(MIB // 2))
    assert answer.startswith(b"HTTP/1.1 400 ")  # half a MiB of blanks is no JSON


def test_a_length_that_promises_more_than_comes_is_too_slow(small: RunningServer) -> None:
    answer = talk(small, [KEY, "Content-Length: 1000"], b'{"prompt":')
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_too_slow"' in answer


def test_a_length_that_promises_less_than_comes_is_cut_there(small: RunningServer) -> None:
    answer = talk(small, [KEY, "Content-Length: 2", "Connection: close"], b"{}" + b"x" * 1000)
    assert answer.startswith(b"HTTP/1.1 422 ")


def test_two_lengths_are_no_request(small: RunningServer) -> None:
    for head in (["Content-Length: 2", "Content-Length: 3"], ["Content-Length: -1"]):
        assert talk(small, [KEY, *head], b"{}").startswith(b"HTTP/1.1 400 ")


def test_a_slow_form_is_cut_too(small: RunningServer) -> None:
    kind = "Content-Type: multipart/form-data; boundary=b"
    answer = talk(small, [KEY, kind, "Content-Length: 999"], b"--b\r\n", "/generate/upload")
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("head", [f"Content-Length: {64 * MIB}", "Transfer-Encoding: chunked"])
def test_without_a_key_the_body_is_not_waited_for(small: RunningServer, head: str) -> None:
    answer = talk(small, [head], b"5\r\nhello")
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_a_client_that_asks_before_sending_is_told_no(small: RunningServer) -> None:
    head = [f"Content-Length: {64 * MIB}", "Expect: 100-continue"]
    assert talk(small, head).startswith(b"HTTP/1.1 401 ")
    assert talk(small, [KEY, *head]).startswith(b"HTTP/1.1 413 ")


def test_a_body_at_the_limit_passes(server: RunningServer) -> None:
    """The shipped 64 MiB, in one request."""
    body = b'{"prompt": "x"' + b" " * (64 * MIB - 15) + b"}"
    assert len(body) == 64 * MIB
    answer = server.client("generation").post("/generate", content=body)
    assert answer.status_code == 400
    assert answer.json()["code"] == "malformed_body"  # blanks, too, are more than JSON needs
    # One byte more is refused before it is sent: a client that sends all the same may see the
    # connection end before it reads why.
    answer_to_more = talk(server, [KEY, f"Content-Length: {64 * MIB + 1}"])
    assert answer_to_more.startswith(b"HTTP/1.1 413 ")
