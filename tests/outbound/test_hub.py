"""The hub as a real server speaks it: what it lists, what it refuses, and who sees the token."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from genserve.config_sources import HUB, HubSettings, hub_settings
from genserve.errors import (
    CommandFailed,
    DownloadFailed,
    GatedRepository,
    HubOffline,
    InsecureAddress,
    TokenRefused,
    UnknownRepository,
)
from genserve.outbound.hub import Hub, Listing, Source, open_hub
from genserve.outbound.transfer import Transfer
from tests.outbound.hub_server import (
    GOOD_TOKEN,
    POOR_TOKEN,
    HubServer,
    Repository,
    git_oid,
    hub_server,
)
from tests.outbound.repositories import pipeline, settings

OPEN, GATED = Source("someone/open"), Source("someone/gated")
COMMAND = "genserve models pull it"


@pytest.fixture
def server() -> Iterator[HubServer]:
    open_one, gated = Repository(pipeline()), Repository(pipeline(), gated=True)
    with hub_server(someone__open=open_one, someone__gated=gated) as running:
        yield running


def fetch(hub: Hub, listing: Listing, path: str, folder: Path) -> bytes:
    [file] = [file for file in listing.files if file.path == path]
    transfer = Transfer(hub.client, free_bytes=lambda _: 10**9, first_pause_s=0.001)
    transfer.fetch(hub.remote(listing, file), folder / "file", lambda _: None)
    return (folder / "file").read_bytes()


def test_a_repository_is_listed_with_sizes_and_checksums(server: HubServer):
    with open_hub(settings(server), command=COMMAND) as hub:
        listing = hub.look(OPEN)
    repository = server.repositories["someone/open"]
    assert (listing.repository, listing.commit, listing.gated) == (
        "someone/open",
        repository.commit,
        False,
    )
    files = {file.path: file for file in listing.files}
    assert ".gitattributes" not in files
    content = repository.files["vae/diffusion_pytorch_model.safetensors"]
    assert files["vae/diffusion_pytorch_model.safetensors"].size == len(content)
    large = files["vae/diffusion_pytorch_model.safetensors"].checksum
    assert str(large) == f"sha256:{hashlib.sha256(content).hexdigest()}"
    small = files["model_index.json"].checksum
    assert str(small) == f"git:{git_oid(repository.files['model_index.json'])}"
    assert len(server.requests) == 1  # and nothing is told to anybody else


@pytest.mark.parametrize("path", ["model_index.json", "vae/diffusion_pytorch_model.safetensors"])
def test_small_and_large_files_are_fetched_and_verified(
    server: HubServer, tmp_path: Path, path: str
):
    with open_hub(settings(server), command=COMMAND) as hub:
        found = fetch(hub, hub.look(OPEN), path, tmp_path)
    assert found == server.repositories["someone/open"].files[path]


def test_the_commit_is_pinned_between_listing_and_fetching(server: HubServer, tmp_path: Path):
    with open_hub(settings(server), command=COMMAND) as hub:
        listing = hub.look(OPEN)
        fetch(hub, listing, "model_index.json", tmp_path)
    assert server.asked("resolve")[0].path.split("/")[4] == listing.commit


def test_the_token_goes_to_the_hub_alone(server: HubServer, tmp_path: Path):
    with open_hub(settings(server, GOOD_TOKEN), command=COMMAND) as hub:
        listing = hub.look(GATED)
        assert listing.gated
        fetch(hub, listing, "vae/diffusion_pytorch_model.safetensors", tmp_path)
    seen = {
        request.path.split("/")[1]: "authorization" in request.headers
        for request in server.requests
    }
    assert seen == {"api": True, "someone": True, "elsewhere": False}


@pytest.mark.parametrize("token", [None, POOR_TOKEN])
def test_a_gated_repository_gives_the_steps(server: HubServer, tmp_path: Path, token: str | None):
    with open_hub(settings(server, token), command=COMMAND) as hub:
        listing = hub.look(GATED)
        with pytest.raises(GatedRepository) as gated:
            fetch(hub, listing, "vae/diffusion_pytorch_model.safetensors", tmp_path)
    told = gated.value.detail("en")
    for step in (f"{HUB}/someone/gated", f"{HUB}/settings/tokens", f"HF_TOKEN=hf_... {COMMAND}"):
        assert step in told
    assert list(tmp_path.iterdir()) == []


def test_a_token_that_is_none_is_told_from_a_licence(server: HubServer, tmp_path: Path):
    with open_hub(settings(server, "hf_expired"), command=COMMAND) as hub:
        listing = hub.look(GATED)
        with pytest.raises(TokenRefused) as refused:
            fetch(hub, listing, "model_index.json", tmp_path)
    assert "hf_expired" not in refused.value.detail("en")


@pytest.mark.parametrize("token", [None, GOOD_TOKEN])
@pytest.mark.parametrize(
    "source", [Source("someone/nothing"), Source("someone/open", "v2"), Source("not..a/name")]
)
def test_what_is_not_there_is_told_by_name(server: HubServer, source: Source, token: str | None):
    opened = open_hub(settings(server, token), command=COMMAND)
    with opened as hub, pytest.raises(CommandFailed) as failed:
        hub.look(source)
    assert isinstance(failed.value, UnknownRepository | TokenRefused)
    assert source.repository in failed.value.detail("en")


def test_a_revision_can_be_named(server: HubServer):
    commit = server.repositories["someone/open"].commit
    with open_hub(settings(server), command=COMMAND) as hub:
        assert hub.look(Source.parse(f"someone/open@{commit}")).commit == commit


def test_a_server_that_is_no_hub_is_told(server: HubServer):
    elsewhere = HubSettings(endpoint=f"{server.url}/someone/open/resolve/main")
    with open_hub(elsewhere, command=COMMAND) as hub, pytest.raises(CommandFailed):
        hub.look(OPEN)


def test_nobody_at_the_address_is_told():
    opened = open_hub(HubSettings(endpoint="http://127.0.0.1:9"), command=COMMAND)
    with opened as hub, pytest.raises(DownloadFailed) as failed:
        hub.look(OPEN)
    assert "http://127.0.0.1:9" in failed.value.detail("en")


def test_offline_nothing_is_asked(server: HubServer):
    with (
        pytest.raises(HubOffline) as offline,
        open_hub(settings(server, offline=True), command=COMMAND),
    ):
        raise AssertionError("must not be reached")
    assert COMMAND in offline.value.detail("en")
    assert server.requests == []


def test_a_mirror_in_the_clear_is_refused():
    with (
        pytest.raises(InsecureAddress),
        open_hub(HubSettings(endpoint="http://mirror.example.org"), command=COMMAND),
    ):
        raise AssertionError("must not be reached")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a/b", (Source("a/b"), None)),
        ("a/b/tree/v1", (Source("a/b", "v1"), None)),
        ("a/b/blob/main/x/y.safetensors", (Source("a/b", "main"), "x/y.safetensors")),
        ("a/b/resolve/main/my%20x.safetensors", (Source("a/b", "main"), "my x.safetensors")),
        ("a/b/discussions/1", None),
        ("a", None),
    ],
)
@pytest.mark.parametrize("host", [HUB, None])
def test_addresses_of_the_hub_are_understood(server: HubServer, path: str, found, host):
    with open_hub(settings(server), command=COMMAND) as hub:
        assert hub.find(f"{host or server.url}/{path}") == found
        assert hub.find(f"https://example.org/{path}") is None


def test_the_hubs_own_variables_are_read(tmp_path: Path):
    env_file = tmp_path / ".env"
    env_file.write_text("HF_TOKEN=hf_from_file\nHF_ENDPOINT=https://mirror.example.org/\n")
    from_file = hub_settings({}, env_file)
    assert from_file == HubSettings("https://mirror.example.org", "hf_from_file", offline=False)
    assert "hf_from_file" not in repr(from_file)
    environ = {"HF_TOKEN": "hf_other", "HF_ENDPOINT": "", "HF_HUB_OFFLINE": "1"}
    both = hub_settings(environ, env_file)  # an empty variable is as good as none
    assert both == HubSettings("https://mirror.example.org", "hf_other", offline=True)
    assert hub_settings({"HF_HUB_OFFLINE": "0"}, tmp_path / "none") == HubSettings()
