"""Whose address counts, and under which address we were asked."""

import pytest
from pydantic import ValidationError
from starlette.datastructures import Headers

from genserve.api.addresses import Proxies
from genserve.config import Server

PROXIES = Proxies(["10.0.0.1", "192.168.0.0/16", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.7", None, "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, 192.168.3.4", "198.51.100.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "rubbish", "10.0.0.1"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", None, "2001:db8:1:2::/64"),
        (None, None, "unknown"),
    ],
)
def test_only_configured_proxies_are_believed(
    peer: str | None, forwarded: str | None, client: str
) -> None:
    headers = Headers({"x-forwarded-for": forwarded} if forwarded else {})
    assert PROXIES.client(peer, headers) == client


@pytest.mark.parametrize(
    ("peer", "headers", "origin"),
    [
        ("203.0.113.7", {"host": "img.example:8080"}, "http://img.example:8080"),
        ("203.0.113.7", {"host": "a.b", "x-forwarded-host": "evil"}, "http://a.b"),
        (
            "10.0.0.1",
            {"host": "inner", "x-forwarded-host": "img.example", "x-forwarded-proto": "https"},
            "https://img.example",
        ),
        ("10.0.0.1", {"host": "a", "x-forwarded-proto": "javascript"}, None),
        ("203.0.113.7", {"host": 'x"><script>'}, None),
        ("203.0.113.7", {}, None),
    ],
)
def test_links_begin_with_what_the_client_asked(
    peer: str, headers: dict[str, str], origin: str | None
) -> None:
    assert PROXIES.origin(peer, "http", Headers(headers)) == origin


@pytest.mark.parametrize(
    "settings",
    [{"trusted_proxies": ["proxy.example"]}, {"public_url": "images.example.org"}],
)
def test_a_wrong_setting_is_refused_at_start(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        Server.model_validate(settings)
