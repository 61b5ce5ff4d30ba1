"""Where a request comes from and under which address it reached us."""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.datastructures import Headers

Address = IPv4Address | IPv6Address

FORWARDING = frozenset(
    {
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "fastly-client-ip",
    }
)
"""What proxies add beside `X-Forwarded-…` and `X-Original-…`."""
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")


@lru_cache(maxsize=4096)
def parse_address(text: str | None) -> Address | None:
    """The IP address in `text`, an IPv4 address inside IPv6 as itself; None when it is none."""
    try:
        address = ip_address((text or "").strip().strip("[]").partition("%")[0])
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def is_loopback(text: str | None) -> bool:
    """Whether `text` is a loopback address or `localhost`."""
    if text is not None and text.casefold() == "localhost":
        return True
    address = parse_address(text)
    return address is not None and address.is_loopback


def host_name(host: str) -> str | None:
    """The name in a Host header without its port; None when the header is malformed."""
    match = HOST.fullmatch(host)
    return match.group(1).strip("[]") if match else None


def is_forwarded(headers: Headers) -> bool:
    """Whether any header says that a proxy passed the request on."""
    return any(
        name in FORWARDING or name.startswith(("x-forwarded", "x-original"))
        for name in headers.keys()  # noqa: SIM118 - iterating Headers itself yields the same
    )


class Proxies:
    """The proxies whose forwarding headers are believed: addresses or networks."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._networks = [ip_network(text, strict=False) for text in trusted]

    def trusts(self, address: Address | None) -> bool:
        """Whether `address` is one of them."""
        return address is not None and any(address in network for network in self._networks)

    def client(self, peer: str | None, headers: Headers) -> str:
        """The client's address: the last one in X-Forwarded-For that is no proxy of ours.

        An IPv6 address is told as its /64, which one client has to itself.
        """
        address = parse_address(peer)
        if self.trusts(address):
            hops = ",".join(headers.getlist("x-forwarded-for")).split(",")
            for hop in reversed(hops):
                address = parse_address(hop) or address
                if not self.trusts(address):
                    break
        if isinstance(address, IPv6Address):
            return str(ip_network((address, 64), strict=False))
        return str(address) if address is not None else "unknown"

    def origin(self, peer: str | None, scheme: str, headers: Headers) -> str | None:
        """`scheme://host` as the client addressed us; None when the Host header is unusable."""
        host = headers.get("host", "")
        if self.trusts(parse_address(peer)):
            scheme = headers.get("x-forwarded-proto", scheme).partition(",")[0].strip()
            host = headers.get("x-forwarded-host", host).partition(",")[0].strip()
        if host_name(host) is None or scheme not in ("http", "https"):
            return None
        return f"{scheme}://{host}"
