"""Takes the server's port, before anything heavy is done."""

import errno
import socket
from ipaddress import ip_address

from genserve.errors import ConfigError, PortInUse

BACKLOG = 2048
"""uvicorn's own."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on every address that `host` stands for; port 0 takes any free one.

    Whoever connects before the server is ready waits instead of being refused. Raises `PortInUse`,
    `ConfigError`.
    """
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            # With port 0, the first address decides for the others.
            chosen = sockets[0].getsockname()[1] if sockets else port
            sockets.append(_listening(family, (address, chosen)))
    except OSError as error:
        for opened in sockets:
            opened.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(host=host, port=port) from None
        reason = (error.strerror or "the address cannot be used").lower()
        raise ConfigError(problem=f"cannot listen on {host} port {port}: {reason}") from None
    return sockets


def is_loopback(sockets: list[socket.socket]) -> bool:
    """Whether only programs on this machine can connect."""
    return all(ip_address(opened.getsockname()[0]).is_loopback for opened in sockets)


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError):
        raise ConfigError(problem=f"server.host: there is no address for {host!r}") from None
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def _listening(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address)
        opened.listen(BACKLOG)
        opened.setblocking(False)
    except OSError:
        opened.close()
        raise
    return opened
