"""Hugging Face's hub, or a mirror of it: which files a repository has, and how to ask for one.

Its library knows the protocol: addresses, errors, tokens. The requests are ours: guarded, resumed,
and without the telemetry of the library's own.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import httpx2
from huggingface_hub import ModelInfo, get_token, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._http import hf_raise_for_status
from huggingface_hub.utils._validators import validate_repo_id

from genserve.config_sources import HUB, HubSettings
from genserve.errors import (
    DownloadFailed,
    GatedRepository,
    GenServeError,
    HubOffline,
    TokenRefused,
    UnknownRepository,
)
from genserve.outbound.checksum import Checksum
from genserve.outbound.client import check_address, open_client
from genserve.outbound.transfer import Remote

LIST_TIMEOUT_S = 30.0
TOKENS_PAGE = "https://huggingface.co/settings/tokens"
_PLAIN_PATH = re.compile(r"[\w][\w.+ -]*(/[\w][\w.+ -]*)*", re.ASCII)
"""Hidden files and anything that could lead out of a folder are no files of ours."""


@dataclass(frozen=True, slots=True)
class Source:
    """A repository and the branch, tag or commit of it that is wanted; None: its main branch."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Source":
        """From "owner/name" or "owner/name@revision"."""
        repository, _, revision = text.partition("@")
        return cls(repository, revision or None)

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository, by its path there. `size` in bytes."""

    path: str
    size: int
    checksum: Checksum


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds at one commit. `gated`: its licence must be accepted first."""

    repository: str
    commit: str
    gated: bool
    files: tuple[HubFile, ...]


class Hub:
    """One endpoint with one token. Make it with `open_hub`."""

    def __init__(self, settings: HubSettings, client: httpx2.Client, command: str) -> None:
        self.client = client
        self._endpoint = settings.endpoint
        self._command = command
        self._token = settings.token or get_token()

    def look(self, source: Source) -> Listing:
        """The files of a repository. Raises `UnknownRepository`, `GatedRepository`,
        `TokenRefused`, `DownloadFailed`."""
        try:
            validate_repo_id(source.repository)
            response = self.client.get(
                self._address(source),
                params={"blobs": "true"},
                headers=self.headers(),
                timeout=LIST_TIMEOUT_S,
            )
            hf_raise_for_status(response)
            info: Any = ModelInfo
            return _listing(source, info(**response.json()))
        except (HfHubHTTPError, HFValidationError) as error:
            raise self._told(error, source) from None
        except httpx2.TransportError as error:
            problem = f"{self._endpoint} cannot be reached ({error})"
            raise DownloadFailed(what=str(source), problem=problem) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, TypeError, KeyError):
            problem = f"{self._endpoint} does not answer as the hub does"
            raise DownloadFailed(what=str(source), problem=problem) from None

    def _address(self, source: Source) -> str:
        revision = quote(source.revision or "main", safe="")
        return f"{self._endpoint}/api/models/{source.repository}/revision/{revision}"

    def remote(self, listing: Listing, file: HubFile) -> Remote:
        """How to fetch a file."""
        source = Source(listing.repository, listing.commit)
        return Remote(
            url=hf_hub_url(
                listing.repository, file.path, revision=listing.commit, endpoint=self._endpoint
            ),
            name=f"{listing.repository}/{file.path}",
            size=file.size,
            checksum=file.checksum,
            headers=self.headers(),
            refusal=lambda response: self._refused(response, source),
        )

    def headers(self) -> dict[str, str]:
        """Who asks. Never sent on to where a redirect leads."""
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def find(self, address: str) -> tuple[Source, str | None] | None:
        """What an address of this hub names: a repository, or one file of it; None: elsewhere.

        As the browser shows it: …/owner/name, …/tree/main, …/blob/main/file, …/resolve/main/file.
        """
        asked = urlsplit(address)
        if asked[:2] not in {urlsplit(self._endpoint)[:2], urlsplit(HUB)[:2]}:
            return None
        match [unquote(part) for part in asked.path.strip("/").split("/")]:
            case [owner, name]:
                return Source(f"{owner}/{name}"), None
            case [owner, name, "tree", revision]:
                return Source(f"{owner}/{name}", revision), None
            case [owner, name, "blob" | "resolve", revision, *path] if path:
                return Source(f"{owner}/{name}", revision), "/".join(path)
            case _:
                return None

    def _refused(self, response: httpx2.Response, source: Source) -> GenServeError:
        try:
            hf_raise_for_status(response)
        except HfHubHTTPError as error:
            return self._told(error, source)
        return DownloadFailed(what=str(source), problem=f"the hub answers {response.status_code}")

    def _told(self, error: Exception, source: Source) -> GenServeError:
        """A refusal of the hub as ours, with what is to be done."""
        page = f"{HUB}/{source.repository}"
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if isinstance(error, DisabledRepoError):
            return DownloadFailed(what=str(source), problem="its author has disabled it")
        if isinstance(error, GatedRepoError) or status == httpx2.codes.FORBIDDEN:
            return GatedRepository(
                repository=source.repository, page=page, tokens=TOKENS_PAGE, command=self._command
            )
        if status == httpx2.codes.UNAUTHORIZED and self._token is not None:
            return TokenRefused(repository=source.repository, page=page, tokens=TOKENS_PAGE)
        unknown = RepositoryNotFoundError | RevisionNotFoundError | HFValidationError
        if isinstance(error, unknown) or status in (401, 404):
            return UnknownRepository(where=str(source), endpoint=self._endpoint)
        return DownloadFailed(what=str(source), problem=f"{self._endpoint} answers {status}")


@contextmanager
def open_hub(settings: HubSettings, *, command: str) -> Iterator[Hub]:
    """The hub of these settings. `command`: what the user runs, to be told again in a message.

    Raises `HubOffline`, `InsecureAddress`.
    """
    if settings.offline:
        raise HubOffline(what=command)
    check_address(settings.endpoint)
    with open_client(settings.endpoint) as client:
        yield Hub(settings, client, command)


def _listing(source: Source, info: ModelInfo) -> Listing:
    files = []
    for sibling in info.siblings or ():
        if not _PLAIN_PATH.fullmatch(sibling.rfilename):
            continue
        if sibling.lfs is not None:
            checksum, size = Checksum.sha256(sibling.lfs.sha256), sibling.lfs.size
        elif sibling.blob_id is not None and sibling.size is not None:
            checksum, size = Checksum("git", sibling.blob_id), sibling.size
        else:
            problem = f"the hub does not tell the checksum of {sibling.rfilename}"
            raise DownloadFailed(what=str(source), problem=problem)
        files.append(HubFile(sibling.rfilename, size, checksum))
    if info.sha is None:
        raise DownloadFailed(what=str(source), problem="the hub does not tell its commit")
    return Listing(source.repository, info.sha, bool(info.gated), tuple(files))
