"""Fetches one file, and goes on where it was cut short: now, or in the next process.

What has arrived lies in FILE.part; it becomes FILE only when it is complete and is what its
checksum says. So a file with its own name is a good file, whenever the process was killed.
"""

import errno
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import httpx2

from genserve.domain.sizes import in_words
from genserve.errors import DownloadFailed, GenServeError, NotEnoughDisk, WrongChecksum
from genserve.outbound.checksum import Checksum

TRIES = 6
"""As often in a row may a server fail without having sent anything."""
FIRST_PAUSE_S = 1.0
"""Before the next try; doubled while nothing is sent."""
RESERVE_BYTES = 64 * 2**20
"""What a download of unknown size leaves free on the disk."""
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_PERMANENT = (httpx2.TooManyRedirects, httpx2.InvalidURL, httpx2.UnsupportedProtocol)


class Stopped(Exception):
    """Whoever wanted the file does not want it any more."""


class _TryAgain(Exception):
    """The server may answer differently soon; the text says what it answered."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file to fetch. `size` in bytes, None where nobody has told it yet.

    `refusal` makes of an answer that is an error what the user is told. `look` sees the first bytes
    of the content and raises when the rest is not worth fetching.
    """

    url: str
    name: str
    size: int | None = None
    checksum: Checksum | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    refusal: Callable[[httpx2.Response], GenServeError] | None = None
    look: Callable[[bytes], None] | None = None


class Transfer:
    """Fetches files with one client, from any number of threads."""

    def __init__(
        self,
        client: httpx2.Client,
        *,
        free_bytes: Callable[[Path], int],
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        """`free_bytes` tells the room on a folder's disk."""
        self.stop = threading.Event()
        """Once set, ends every fetch by `Stopped`."""
        self._client = client
        self._free_bytes = free_bytes
        self._first_pause_s = first_pause_s

    def fetch(self, remote: Remote, target: Path, on_bytes: Callable[[int], None]) -> None:
        """Have the file at `target`, whose folder exists.

        `on_bytes` is told how many bytes have come, first those that an earlier try left; a
        negative number takes some back. Raises `Stopped`, `DownloadFailed`, `WrongChecksum`,
        `NotEnoughDisk`, what `remote` makes of a refusal, or `OSError`.
        """
        fetching = _Fetching(remote, target, on_bytes, self._client, self._free_bytes, self.stop)
        fetching.begin()
        tries, pause_s = TRIES, self._first_pause_s
        while not fetching.complete:
            before = fetching.have
            try:
                fetching.stream()
                continue
            except _PERMANENT as error:
                raise DownloadFailed(what=remote.name, problem=str(error)) from None
            except (httpx2.TransportError, _TryAgain) as error:
                problem = str(error) or type(error).__name__
            except OSError as error:
                raise _explained(error, target) from None
            tries = TRIES if fetching.have > before else tries - 1
            pause_s = self._first_pause_s if fetching.have > before else pause_s * 2
            if tries == 0:
                raise DownloadFailed(what=remote.name, problem=problem)
            if self.stop.wait(pause_s):
                raise Stopped
        fetching.finish()


@dataclass(slots=True)
class _Fetching:
    """One file under way. `complete` when the server has no more of it."""

    remote: Remote
    target: Path
    on_bytes: Callable[[int], None]
    client: httpx2.Client
    free_bytes: Callable[[Path], int]
    stop: threading.Event
    complete: bool = False

    @property
    def part(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def tag(self) -> Path:
        """Holds what the server calls this version of the file, where no checksum does."""
        return self.target.with_name(f"{self.target.name}.tag")

    @property
    def have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def begin(self) -> None:
        """Take up what an earlier try left, if that can be told to be of the same file."""
        if self.remote.checksum is None and not self.tag.exists():
            self.part.unlink(missing_ok=True)
        self.on_bytes(self.have)
        self.complete = self.part.exists() and self.have == self.remote.size

    def stream(self) -> None:
        """Append what the server sends."""
        with self.client.stream("GET", self.remote.url, headers=self._headers()) as response:
            if self._has_all(response):
                return
            self._refuse(response)
            if self.have and not _continues_at(response, self.have):
                self._start_over()  # it sends the whole file
            total = _total(response)
            self._check(total)
            self._remember(response)
            self._write(response)
            if total is not None and self.have < total:
                raise _TryAgain("the connection broke")
        self.complete = True

    def finish(self) -> None:
        """Verify it and give it its name."""
        wanted = self.remote.checksum
        if wanted is not None and (found := wanted.of(self.part)) != wanted:
            self.part.unlink()
            raise WrongChecksum(file=self.remote.name, expected=str(wanted), found=str(found))
        with self.part.open("rb") as file:
            os.fsync(file.fileno())
        self.part.replace(self.target)
        self.tag.unlink(missing_ok=True)

    def _headers(self) -> dict[str, str]:
        headers = {**self.remote.headers, "Accept-Encoding": "identity"}
        if self.have:
            headers["Range"] = f"bytes={self.have}-"
            if self.tag.exists():
                headers["If-Range"] = self.tag.read_text(encoding="latin-1")
        return headers

    def _has_all(self, response: httpx2.Response) -> bool:
        """Whether nothing is left to send. What is longer than the server's file is thrown away."""
        if response.status_code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not self.have:
            return False
        self.complete = response.headers.get("Content-Range") == f"bytes */{self.have}"
        if not self.complete:
            self._start_over()
        return True

    def _refuse(self, response: httpx2.Response) -> None:
        """Raise what an error answer means."""
        if response.is_success:
            return
        reason = f"the server answers {response.status_code} {response.reason_phrase}".strip()
        if response.status_code in _TRANSIENT:
            raise _TryAgain(reason)
        response.read()
        if self.remote.refusal is not None:
            raise self.remote.refusal(response)
        raise DownloadFailed(what=self.remote.name, problem=reason)

    def _check(self, total: int | None) -> None:
        """The size must be the expected one, and must find room."""
        expected = self.remote.size
        if expected is not None and total is not None and total != expected:
            problem = f"it has {total} bytes on the server instead of {expected}"
            raise DownloadFailed(what=self.remote.name, problem=problem)
        needed = RESERVE_BYTES if total is None else total - self.have
        self._check_room(needed)

    def _check_room(self, needed: int) -> None:
        free = self.free_bytes(self.target.parent)
        if needed > free:
            raise NotEnoughDisk(
                folder=str(self.target.parent), needed=in_words(needed), free=in_words(free)
            )

    def _remember(self, response: httpx2.Response) -> None:
        """What tells this version from another, so that the rest may be asked for later."""
        etag = response.headers.get("ETag", "")
        tag = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
        if self.remote.checksum is None and tag and self.have == 0:
            self.tag.write_text(tag, encoding="latin-1")

    def _write(self, response: httpx2.Response) -> None:
        most = _total(response) if self.remote.size is None else self.remote.size
        first = self.have == 0
        with self.part.open("ab") as file:
            for chunk in response.iter_bytes():
                if self.stop.is_set():
                    raise Stopped
                if first and self.remote.look is not None:
                    self.remote.look(chunk)
                first = False
                if most is None:
                    self._check_room(RESERVE_BYTES)
                elif file.tell() + len(chunk) > most:
                    raise DownloadFailed(what=self.remote.name, problem="the server sends too much")
                file.write(chunk)
                self.on_bytes(len(chunk))

    def _start_over(self) -> None:
        self.on_bytes(-self.have)
        self.part.unlink()
        self.tag.unlink(missing_ok=True)


def _continues_at(response: httpx2.Response, position: int) -> bool:
    """Whether the answer is the rest of the file from there on."""
    if response.status_code != HTTPStatus.PARTIAL_CONTENT:
        return False
    told = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return told is not None and int(told[1]) == position


def _total(response: httpx2.Response) -> int | None:
    """The size of the whole file as the answer tells it; of what is packed, it cannot."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return None
    told = re.search(r"/(\d+)$", response.headers.get("Content-Range", ""))
    if told is not None:
        return int(told[1])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _explained(error: OSError, target: Path) -> Exception:
    """A full disk in our own words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NotEnoughDisk(folder=str(target.parent), needed="more", free=in_words(0))
    return error
