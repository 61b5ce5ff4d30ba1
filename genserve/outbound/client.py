"""The one guarded way out: an HTTP client that speaks https, and plain http to this machine only.

Every hop of a redirect is checked, so nobody can lead a download back into the clear.
"""

import ipaddress
from urllib.parse import urlsplit

import httpx2

from genserve import __version__
from genserve.errors import DownloadFailed, InsecureAddress

CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 60.0
"""A server that sends nothing for so long is taken for gone."""
MAX_REDIRECTS = 5


def open_client(address: str) -> httpx2.Client:
    """A client for `address` and wherever that leads. A proxy is not asked for this machine.

    Requests raise `InsecureAddress` for plain http to another machine.
    """
    return httpx2.Client(
        timeout=httpx2.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        headers={"User-Agent": f"genserve/{__version__}"},
        event_hooks={"request": [_check]},
        trust_env=not is_this_machine(urlsplit(address).hostname),
    )


def size_at(client: httpx2.Client, address: str) -> int | None:
    """The size in bytes of what lies there; None when the server does not tell.

    Raises `DownloadFailed`, `InsecureAddress`.
    """
    try:
        response = client.head(address, headers={"Accept-Encoding": "identity"})
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise DownloadFailed(what=address, problem=str(error)) from None
    if response.status_code in (405, 501):  # it does not know HEAD
        return None
    if response.is_error:
        problem = f"the server answers {response.status_code} {response.reason_phrase}"
        raise DownloadFailed(what=address, problem=problem)
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def check_address(address: str) -> None:
    """Raises `InsecureAddress` unless it is https, or http to this machine."""
    parts = urlsplit(address)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and is_this_machine(parts.hostname):
        return
    raise InsecureAddress(address=f"{parts.scheme}://{parts.hostname or ''}")


def is_this_machine(host: str | None) -> bool:
    """Whether the name is a loopback address or localhost."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _check(request: httpx2.Request) -> None:
    check_address(str(request.url))
