"""One file over a real connection that breaks, lies or ends; what has come is never lost."""

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from genserve.errors import DownloadFailed, InsecureAddress, NotEnoughDisk, WrongChecksum
from genserve.outbound.checksum import Checksum
from genserve.outbound.client import check_address, open_client
from genserve.outbound.transfer import TRIES, Remote, Stopped, Transfer
from tests.outbound.hub_server import HubServer, Repository, hub_server

CONTENT = random.Random(3).randbytes(300_000)
SHA256 = Checksum.sha256(hashlib.sha256(CONTENT).hexdigest())
PATH = "a/b/large.safetensors"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server(a__b=Repository({"large.safetensors": CONTENT})) as running:
        yield running


class Fetch:
    """Fetches the large file, and keeps count."""

    def __init__(self, hub: HubServer, folder: Path) -> None:
        self.hub = hub
        self.target = folder / "large.safetensors"
        self.part = folder / "large.safetensors.part"
        self.came: list[int] = []
        self.on_bytes: Callable[[int], None] = self.came.append
        self.room = 10**12

    def __call__(self, *, known: bool = True, checksum: Checksum | None = SHA256, **more) -> None:
        remote = Remote(
            url=f"{self.hub.url}/elsewhere/{PATH}",
            name="large.safetensors",
            size=len(CONTENT) if known else None,
            checksum=checksum,
            **more,
        )
        with open_client(self.hub.url) as client:
            self.transfer = Transfer(client, free_bytes=lambda _: self.room, first_pause_s=0.001)
            self.transfer.fetch(remote, self.target, self.on_bytes)

    @property
    def ranges(self) -> list[str | None]:
        return [request.range for request in self.hub.requests]


@pytest.fixture
def fetch(hub: HubServer, tmp_path: Path) -> Fetch:
    return Fetch(hub, tmp_path)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("checksum", [SHA256, None])
def test_a_file_comes_whole(fetch: Fetch, known: bool, checksum: Checksum | None):
    fetch(known=known, checksum=checksum)
    assert fetch.target.read_bytes() == CONTENT
    assert sum(fetch.came) == len(CONTENT)
    assert [path.name for path in fetch.target.parent.iterdir()] == ["large.safetensors"]


@pytest.mark.parametrize("checksum", [SHA256, None])
def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    fetch: Fetch, checksum: Checksum | None
):
    fetch.hub.break_after[PATH] = [100_000, 50_000]
    fetch(checksum=checksum, known=checksum is not None)
    assert fetch.target.read_bytes() == CONTENT
    assert fetch.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert sum(fetch.came) == len(CONTENT)


def test_many_breaks_are_no_end_while_something_comes(fetch: Fetch):
    fetch.hub.break_after[PATH] = [20_000] * (TRIES + 4)
    fetch()
    assert fetch.target.read_bytes() == CONTENT


def test_a_server_that_sends_nothing_is_given_up_and_what_came_is_kept(fetch: Fetch):
    fetch.hub.break_after[PATH] = [100_000, *[0] * TRIES]
    with pytest.raises(DownloadFailed) as failed:
        fetch()
    assert failed.value.params["what"] == "large.safetensors"
    assert fetch.part.read_bytes() == CONTENT[:100_000]
    assert not fetch.target.exists()
    fetch.came.clear()
    fetch()  # the next command
    assert fetch.target.read_bytes() == CONTENT
    assert fetch.ranges[-1] == "bytes=100000-"
    assert (fetch.came[0], sum(fetch.came)) == (100_000, len(CONTENT))


def test_a_server_that_is_overloaded_is_asked_again(fetch: Fetch):
    fetch.hub.refuse_with = [503, 429, 500]
    fetch()
    assert fetch.target.read_bytes() == CONTENT


def test_any_other_refusal_is_told_at_once(fetch: Fetch):
    fetch.hub.refuse_with = [410]
    with pytest.raises(DownloadFailed) as failed:
        fetch()
    assert "410" in str(failed.value.params["problem"])
    assert len(fetch.hub.requests) == 1


def test_a_server_without_ranges_sends_all_again(fetch: Fetch):
    fetch.hub.break_after[PATH] = [100_000]
    fetch.hub.ranges = False
    fetch()
    assert fetch.target.read_bytes() == CONTENT
    assert sum(fetch.came) == len(CONTENT)


def test_a_wrong_checksum_leaves_nothing_behind(fetch: Fetch):
    fetch.hub.wrong.add(PATH)
    with pytest.raises(WrongChecksum) as wrong:
        fetch()
    assert wrong.value.params["expected"] == str(SHA256)
    assert list(fetch.target.parent.iterdir()) == []
    fetch.hub.wrong.clear()
    fetch()
    assert fetch.target.read_bytes() == CONTENT


def test_another_size_than_was_told_is_refused(fetch: Fetch):
    fetch.hub.repositories["a/b"].files["large.safetensors"] = CONTENT + b"more"
    with pytest.raises(DownloadFailed) as failed:
        fetch()
    assert "300004 bytes" in str(failed.value.params["problem"])


def test_without_a_checksum_another_version_is_begun_anew(fetch: Fetch):
    fetch.hub.break_after[PATH] = [100_000, *[0] * TRIES]
    with pytest.raises(DownloadFailed):
        fetch(known=False, checksum=None)
    other = random.Random(4).randbytes(200_000)
    fetch.hub.repositories["a/b"].files["large.safetensors"] = other
    fetch(known=False, checksum=None)
    assert fetch.target.read_bytes() == other
    assert fetch.ranges[-1] == "bytes=100000-"  # which its If-Range made void


def test_what_cannot_be_told_from_another_version_is_begun_anew(fetch: Fetch):
    fetch.hub.etags = False
    fetch.hub.break_after[PATH] = [100_000, *[0] * TRIES]
    with pytest.raises(DownloadFailed):
        fetch(known=False, checksum=None)
    fetch(known=False, checksum=None)
    assert fetch.ranges[-1] is None
    assert fetch.target.read_bytes() == CONTENT


@pytest.mark.parametrize("known", [True, False])
def test_what_was_whole_but_not_yet_verified_is_not_fetched_again(fetch: Fetch, known: bool):
    fetch.part.write_bytes(CONTENT)
    fetch(known=known)
    assert fetch.target.read_bytes() == CONTENT
    assert sum(fetch.came) == len(CONTENT)


def test_what_is_longer_than_the_file_is_thrown_away(fetch: Fetch):
    fetch.part.write_bytes(CONTENT + b"more")
    fetch()
    assert fetch.target.read_bytes() == CONTENT
    assert sum(fetch.came) == len(CONTENT)


@pytest.mark.parametrize("known", [True, False])
def test_what_finds_no_room_is_not_begun(fetch: Fetch, known: bool):
    fetch.room = 200_000
    with pytest.raises(NotEnoughDisk) as full:
        fetch(known=known)
    assert full.value.params["needed"] == "300.0 kB"
    assert not fetch.part.exists()


def test_the_first_bytes_can_end_it(fetch: Fetch):
    seen: list[bytes] = []

    def look(head: bytes) -> None:
        seen.append(head)
        raise DownloadFailed(what="it", problem="it looks wrong")

    with pytest.raises(DownloadFailed):
        fetch(look=look)
    assert CONTENT.startswith(seen[0])
    assert len(seen) == 1


def test_it_can_be_stopped(fetch: Fetch):
    fetch.hub.pause_s = 0.01

    def came(count: int) -> None:
        if count:
            fetch.transfer.stop.set()

    fetch.on_bytes = came
    with pytest.raises(Stopped):
        fetch()
    assert 0 < fetch.part.stat().st_size < len(CONTENT)


@pytest.mark.parametrize(
    "address",
    ["http://example.org/x", "ftp://example.org/x", "file:///etc/passwd", "https://", "x", ""],
)
def test_only_https_leads_to_other_machines(address: str):
    with pytest.raises(InsecureAddress):
        check_address(address)


@pytest.mark.parametrize(
    "address",
    ["https://example.org/x", "http://127.0.0.1:1/x", "http://localhost/x", "http://[::1]/"],
)
def test_this_machine_may_be_asked_in_the_clear(address: str):
    check_address(address)


def test_a_redirect_may_not_lead_into_the_clear(hub: HubServer, tmp_path: Path):
    hub.leads_to = "http://example.org"
    remote = Remote(f"{hub.url}/a/b/resolve/main/large.safetensors", "large.safetensors")
    with open_client(hub.url) as client, pytest.raises(InsecureAddress):
        Transfer(client, free_bytes=lambda _: 10**9).fetch(remote, tmp_path / "x", lambda _: None)
