"""When the documented default key works: a pure decision, closed in every doubt.

Everybody knows that key, so it must open nothing to anybody but a person at this machine. The
peer's address alone does not prove that: a browser reaches loopback on behalf of any website (DNS
rebinding), and behind a local reverse proxy every client looks like loopback.
"""

from starlette.datastructures import Headers

from genserve.api.addresses import host_name, is_forwarded, is_loopback


def is_local_request(peer: str | None, scheme: str, headers: Headers) -> bool:
    """Whether a program on this machine asks, and not a website or a proxy through one.

    True only if the TCP peer is loopback, no header tells of a proxy, the Host header names
    loopback, and Origin and Sec-Fetch-Site, where present, say that the page is our own.
    """
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not is_loopback(peer) or is_forwarded(headers):
        return False
    if not is_loopback(host_name(hosts[0])):
        return False
    own_origin = f"{scheme}://{hosts[0]}".casefold()
    if any(origin.casefold() != own_origin for origin in headers.getlist("origin")):
        return False
    sites = headers.getlist("sec-fetch-site")
    return all(site.casefold() in ("none", "same-origin") for site in sites)


def default_key_works(
    *, active: bool, bound_to: str, peer: str | None, scheme: str, headers: Headers
) -> bool:
    """Whether the default key opens this request.

    `active`: no real key exists and the configuration does not forbid the default key.
    `bound_to`: the address that the server listens on.
    """
    return active and is_loopback(bound_to) and is_local_request(peer, scheme, headers)
