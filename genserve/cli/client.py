"""The command line's way to a running server: its public API, nothing else."""

import json
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2

from genserve.config import DEFAULT_API_KEY
from genserve.errors import CommandFailed, ServerUnreachable

CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 30.0


class Client:
    """A connection to one server with one key."""

    def __init__(self, url: str, key: str | None) -> None:
        local = urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
        self.url = url
        self._http = httpx2.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key or DEFAULT_API_KEY}", "Accept-Language": "en"},
            timeout=httpx2.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=not local,  # a proxy must not be asked for what is on this machine
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def answers(self) -> bool:
        """Whether a GenServe server is there."""
        try:
            response = self._http.get("/healthz", timeout=CONNECT_TIMEOUT_S)
        except (httpx2.HTTPError, httpx2.InvalidURL):
            return False
        return response.status_code == httpx2.codes.OK

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer to a GET. Raises `ServerUnreachable`, `CommandFailed`."""
        asked = {name: value for name, value in query.items() if value is not None}
        return self._json("GET", path, params=asked)

    def post(
        self, path: str, body: dict[str, Any] | None = None, *, patient: bool | None = None
    ) -> Any:
        """The JSON answer to a POST of JSON. Raises `ServerUnreachable`, `CommandFailed`.

        `patient`: however long it takes; False: the server is to answer before it is done.
        """
        options: dict[str, Any] = {}
        if patient:
            options["timeout"] = httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S)
        elif patient is False:
            options["headers"] = {"Prefer": "respond-async"}
        return self._json("POST", path, json=body or {}, **options)

    def server_sent(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each server-sent event as (kind, data), to the end. Raises as `get` does."""
        kind = ""
        waiting = httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S)
        try:
            with self._http.stream("GET", path, timeout=waiting) as response:
                if response.is_error:
                    response.read()
                    raise CommandFailed(problem=_told(response))
                for line in response.iter_lines():
                    if line.startswith("event:"):
                        kind = line.removeprefix("event:").strip()
                    elif line.startswith("data:"):
                        yield kind, json.loads(line.removeprefix("data:"))
        except httpx2.HTTPError:
            raise ServerUnreachable(url=self.url) from None

    def _json(self, method: str, path: str, **options: Any) -> Any:
        try:
            return self._send(method, path, **options).json()
        except ValueError:
            raise CommandFailed(problem=f"{self.url} does not answer as GenServe does") from None

    def _send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **options)
        except (httpx2.HTTPError, httpx2.InvalidURL):
            raise ServerUnreachable(url=self.url) from None
        if response.is_error:
            raise CommandFailed(problem=_told(response))
        return response


def _told(response: httpx2.Response) -> str:
    """What the server says went wrong, in one line."""
    try:
        body = response.json()
        text = body.get("detail") or body["error"]
    except (ValueError, AttributeError, KeyError):
        text = response.reason_phrase
    told = f"the server answered {response.status_code}: {' '.join(str(text).split())}"
    if response.status_code == httpx2.codes.UNAUTHORIZED:
        return f"{told}; name a key with GENSERVE_API_KEY or --api-key"
    return told
