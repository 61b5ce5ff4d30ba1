"""A real server that speaks the hub's protocol on loopback, and misbehaves when it is told to.

As the hub does: `/api/models/{repo}/revision/{rev}` lists the files with sizes and checksums;
`/{repo}/resolve/{rev}/{path}` serves small files itself and sends large ones (LFS) elsewhere, to an
address of another origin that knows nothing of tokens and serves ranges.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

GOOD_TOKEN = "hf_of_one_who_accepted_the_licence"
POOR_TOKEN = "hf_of_one_who_did_not"
LFS_BYTES = 1000
"""Larger files are stored elsewhere."""
CHUNK_BYTES = 16_384


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """Files by path. `gated`: only for a token whose user has accepted the licence."""

    files: dict[str, bytes]
    gated: bool = False

    @property
    def commit(self) -> str:
        names = sorted(f"{path} {git_oid(content)}" for path, content in self.files.items())
        return hashlib.sha1("\n".join(names).encode()).hexdigest()


@dataclass
class Request:
    """What the server was asked."""

    method: str
    host: str
    path: str
    headers: dict[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class HubServer:
    """The server's repositories, and how it misbehaves.

    `break_after`: path → after so many bytes of an answer's body the connection is cut, once for
    each number. `wrong`: files whose content is not what their checksum says. `pause_s`: between
    two chunks. `refuse_with`: statuses that the next files are answered with.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    break_after: dict[str, list[int]] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    pause_s: float = 0.0
    refuse_with: list[int] = field(default_factory=list)
    ranges: bool = True
    etags: bool = True
    leads_to: str | None = None
    """Where large files are said to lie; None: on this server, by another name of it."""
    requests: list[Request] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self, part: str) -> list[Request]:
        """The requests whose path has `part` in it."""
        return [request for request in self.requests if part in request.path]

    def served_bytes(self, path: str) -> bytes:
        """What is sent for a file of any repository."""
        for name, repository in self.repositories.items():
            if path.startswith(f"{name}/") and path.removeprefix(f"{name}/") in repository.files:
                content = repository.files[path.removeprefix(f"{name}/")]
                return content[:-1] + bytes([content[-1] ^ 1]) if path in self.wrong else content
        raise KeyError(path)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: HubServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub


@contextmanager
def hub_server(**repositories: Repository) -> Iterator[HubServer]:
    """A running hub; `owner__name=…` are its repositories."""
    hub = HubServer({name.replace("__", "/"): one for name, one in repositories.items()})
    server = _Server(hub)
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _listing(name: str, repository: Repository) -> dict[str, Any]:
    return {
        "id": name,
        "sha": repository.commit,
        "gated": "manual" if repository.gated else False,
        "private": False,
        "siblings": [_sibling(path, content) for path, content in repository.files.items()],
    }


def _sibling(path: str, content: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {
        "rfilename": path,
        "size": len(content),
        "blobId": git_oid(content),
    }
    if len(content) > LFS_BYTES:
        sha256 = hashlib.sha256(content).hexdigest()
        found["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
    return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> HubServer:
        assert isinstance(self.server, _Server)
        return self.server.hub

    def log_message(self, *_: Any) -> None:
        """Silence."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(self.command, headers["host"], path, headers))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._list(*match.groups())
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*match.groups())
        elif path.startswith("/elsewhere/"):
            self._serve(path.removeprefix("/elsewhere/"), {})
        else:
            self._refuse(404, "nothing here")

    def _list(self, name: str, revision: str) -> None:
        repository = self._repository(name, revision)
        if repository is not None:
            self._send(200, json.dumps(_listing(name, repository)).encode(), {})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name, revision)
        if repository is None or self._gated(repository):
            return
        content = repository.files.get(path)
        if content is None:
            self._refuse(404, "no such file", "EntryNotFound")
            return
        about = {"X-Repo-Commit": repository.commit}
        if len(content) <= LFS_BYTES:
            self._serve(f"{name}/{path}", about | {"ETag": f'"{git_oid(content)}"'})
            return
        about["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        about["X-Linked-Size"] = str(len(content))
        leads_to = self.hub.leads_to or f"http://localhost:{self.hub.port}"
        about["Location"] = f"{leads_to}/elsewhere/{name}/{path}"
        self._send(302, b"", about)

    def _repository(self, name: str, revision: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            known = "authorization" in {header.lower() for header in self.headers}
            self._refuse(404 if known else 401, "Repository not found", "RepoNotFound")
            return None
        if revision not in ("main", repository.commit):
            self._refuse(404, "no such revision", "RevisionNotFound")
            return None
        return repository

    def _gated(self, repository: Repository) -> bool:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not repository.gated or token == GOOD_TOKEN:
            return False
        if token in ("", POOR_TOKEN):
            self._refuse(403 if token else 401, "Access is restricted", "GatedRepo")
        else:
            self._refuse(401, "Invalid credentials in Authorization header")
        return True

    def _serve(self, path: str, about: Mapping[str, str]) -> None:
        if self.hub.refuse_with:
            self._refuse(self.hub.refuse_with.pop(0), "not now")
            return
        try:
            content = self.hub.served_bytes(path)
        except KeyError:
            self._refuse(404, "no such file")
            return
        headers, etag = dict(about), f'"{hashlib.sha256(content).hexdigest()}"'
        if self.hub.etags:
            headers.setdefault("ETag", etag)
        status, first = self._range(content, headers, etag)
        self._send(status, content[first:] if status < 400 else b"", headers, path)

    def _range(self, content: bytes, headers: dict[str, str], etag: str) -> tuple[int, int]:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked is None or not self.hub.ranges or self.headers.get("If-Range", etag) != etag:
            return 200, 0
        first = int(asked[1])
        if first >= len(content):
            headers["Content-Range"] = f"bytes */{len(content)}"
            return 416, 0
        headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return 206, first

    def _refuse(self, status: int, message: str, code: str | None = None) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], path: str = "") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = self.hub.break_after.get(path, [])
        cut = cuts.pop(0) if cuts else None
        try:
            for begin in range(0, len(body), CHUNK_BYTES):
                end = min(begin + CHUNK_BYTES, len(body) if cut is None else cut)
                self.wfile.write(body[begin:end])
                self.wfile.flush()
                if end == cut:
                    self.close_connection = True
                    return
                time.sleep(self.hub.pause_s)
        except OSError:
            self.close_connection = True  # the client went away
