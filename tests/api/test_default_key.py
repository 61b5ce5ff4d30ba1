"""The documented default key opens nothing but requests of a person at this machine."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from genserve.api.default_key import default_key_works

BOUND = {"127.0.0.1": True, "::1": True, "localhost": True, "0.0.0.0": False, "10.0.0.5": False}
PEERS = {"127.0.0.1": True, "::1": True, "::ffff:127.0.0.1": True, "10.0.0.9": False, None: False}
HOSTS = {"127.0.0.1:12411": True, "localhost": True, "[::1]:80": True, "evil.example": False}
EXTRA: dict[tuple[tuple[str, str], ...], bool] = {
    (): True,
    (("origin", "http://HOST"), ("sec-fetch-site", "same-origin")): True,
    (("sec-fetch-site", "none"),): True,
    (("origin", "https://evil.example"),): False,
    (("origin", "null"),): False,
    (("sec-fetch-site", "cross-site"),): False,
    (("sec-fetch-site", "same-site"),): False,
    (("x-forwarded-for", "127.0.0.1"),): False,
    (("x-forwarded-host", "localhost"),): False,
    (("forwarded", "for=127.0.0.1"),): False,
    (("x-real-ip", "127.0.0.1"),): False,
    (("via", "1.1 proxy"),): False,
}
MATRIX = list(product(BOUND, PEERS, HOSTS, EXTRA))


def works(
    bound: str, peer: str | None, host: str | None, extra: list[tuple[str, str]], active: bool
) -> bool:
    headers = [] if host is None else [(b"host", host.encode())]
    headers += [(name.encode(), text.replace("HOST", host or "").encode()) for name, text in extra]
    return default_key_works(
        active=active, bound_to=bound, peer=peer, scheme="http", headers=Headers(raw=headers)
    )


def test_it_works_exactly_when_every_condition_holds() -> None:
    assert len(MATRIX) >= 200
    for bound, peer, host, extra in MATRIX:
        expected = BOUND[bound] and PEERS[peer] and HOSTS[host] and EXTRA[extra]
        assert works(bound, peer, host, list(extra), True) is expected, (bound, peer, host, extra)


def test_it_never_works_once_a_key_exists() -> None:
    assert not any(
        works(bound, peer, host, list(extra), False) for bound, peer, host, extra in MATRIX
    )


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1@evil.example",
        "0.0.0.0",
        "127.0.0.1:80:80",
        "localhost/",
        "[::1",
    ],
)
def test_a_strange_host_closes_it(host: str | None) -> None:
    assert not works("127.0.0.1", "127.0.0.1", host, [], True)


def test_two_host_headers_close_it() -> None:
    headers = Headers(raw=[(b"host", b"localhost"), (b"host", b"localhost")])
    assert not default_key_works(
        active=True, bound_to="127.0.0.1", peer="127.0.0.1", scheme="http", headers=headers
    )


SAFE = ["accept", "user-agent", "content-type", "x-api-key", "authorization"]


@given(
    names=st.lists(st.sampled_from([*SAFE, "x-forwarded-proto", "x-original-url", "Via"])),
    host=st.sampled_from(["localhost", "127.0.0.1", "example.org"]),
)
def test_one_doubt_is_enough(names: list[str], host: str) -> None:
    doubtful = host == "example.org" or any(name not in SAFE for name in names)
    extra = [(name.lower(), "x") for name in names]
    assert works("127.0.0.1", "127.0.0.1", host, extra, True) is not doubtful
