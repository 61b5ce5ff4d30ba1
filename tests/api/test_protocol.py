"""Slow and huge headers are cut, on real sockets; everything else is left alone."""

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from genserve.api.protocol import MAX_HEADER_BYTES, server_config
from genserve.config import Server

TIMEOUT_S = 0.4
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

Address = tuple[str, int]


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    app = FastAPI()

    @app.get("/")
    async def index() -> Response:
        return Response("hello")

    @app.get("/slow")
    async def slow() -> Response:
        await asyncio.sleep(3 * TIMEOUT_S)
        return Response("late")

    @app.post("/read")
    async def read(request: Request) -> Response:
        return Response(str(len(await request.body())))

    @app.post("/refuse")
    async def refuse() -> Response:
        return Response("no", status_code=401)

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(server_config(app, Server(header_timeout_s=TIMEOUT_S)))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield listening.getsockname()
    server.should_exit = True
    thread.join()
    listening.close()


def connect(address: Address) -> socket.socket:
    return socket.create_connection(address, timeout=20)


def read_to_end(connection: socket.socket) -> bytes:
    """Everything until the server closes; fails by timeout if it never does."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET",
        b"GET / HTTP/1.1\r\nHost: loc",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        b"\r\n",
    ],
)
def test_headers_that_never_end_are_cut(address: Address, beginning: bytes) -> None:
    with connect(address) as connection:
        connection.sendall(beginning)
        assert read_to_end(connection).startswith(b"HTTP/1.1 408 ")


def test_trickling_does_not_move_the_deadline(address: Address) -> None:
    with connect(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        connection.settimeout(TIMEOUT_S / 8)
        for _ in range(400):
            try:
                connection.sendall(b"a")
                if connection.recv(1024).startswith(b"HTTP/1.1 408 "):
                    return
            except TimeoutError:
                continue
    pytest.fail("the connection was kept open")


def test_the_next_request_on_a_kept_connection_has_its_own_deadline(address: Address) -> None:
    with connect(address) as connection:
        for _ in range(3):
            connection.sendall(REQUEST)
            assert connection.recv(65536).endswith(b"hello")
        connection.sendall(b"GET / HT")
        assert read_to_end(connection).startswith(b"HTTP/1.1 408 ")


def test_line_breaks_between_requests_do_not_hold_a_connection(address: Address) -> None:
    with connect(address) as connection:
        connection.sendall(REQUEST)
        assert connection.recv(65536).endswith(b"hello")
        connection.sendall(b"\r\n")
        assert read_to_end(connection).startswith(b"HTTP/1.1 408 ")


def test_a_slow_answer_is_not_cut(address: Address) -> None:
    with connect(address) as connection:
        connection.sendall(REQUEST.replace(b"GET /", b"GET /slow"))
        assert connection.recv(65536).endswith(b"late")


def test_pipelined_requests_are_answered_in_order(address: Address) -> None:
    with connect(address) as connection:
        slow = REQUEST.replace(b"GET /", b"GET /slow")
        last = REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        connection.sendall(slow + REQUEST + last)
        received = read_to_end(connection)
        assert [received.count(b"late"), received.count(b"hello")] == [1, 2]
        assert received.index(b"late") < received.index(b"hello")


def test_huge_headers_are_cut_before_they_are_complete(address: Address) -> None:
    with connect(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        try:
            for number in range(MAX_HEADER_BYTES // 256):
                connection.sendall(b"X-%d: " % number + b"a" * 1000 + b"\r\n")
        except OSError:
            pass  # cut while we were still sending
        assert read_to_end(connection).startswith(b"HTTP/1.1 431 ")


def test_a_large_body_is_no_large_header(address: Address) -> None:
    size = 4 * MAX_HEADER_BYTES
    head = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    with connect(address) as connection:
        connection.sendall(head + b"a" * size)
        assert connection.recv(65536).endswith(b"%d" % size)


def test_an_answer_before_the_body_has_arrived_ends_the_connection(address: Address) -> None:
    with connect(address) as connection:
        connection.sendall(b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        assert connection.recv(65536).endswith(b"no")
        connection.settimeout(0.05)
        for _ in range(90):  # a body that goes on and on keeps nothing open
            try:
                connection.sendall(b"a")
                if not connection.recv(1024):
                    return
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                return
    pytest.fail("the connection was kept open")


def test_a_refusal_after_a_whole_body_keeps_the_connection(address: Address) -> None:
    with connect(address) as connection:
        for _ in range(2):
            connection.sendall(b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
            assert connection.recv(65536).endswith(b"no")


def test_many_slow_connections_are_all_cut_and_others_are_served(address: Address) -> None:
    slow = [connect(address) for _ in range(200)]
    try:
        for connection in slow:
            connection.sendall(b"GET / HTTP/1.1\r\nX-")
        with connect(address) as connection:
            connection.sendall(REQUEST)
            assert connection.recv(65536).endswith(b"hello")
        assert all(read_to_end(each).startswith(b"HTTP/1.1 408 ") for each in slow)
    finally:
        for connection in slow:
            connection.close()
