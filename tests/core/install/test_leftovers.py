"""What commands leave that failed or were killed: nothing, or what the next one can go on with."""

import threading
from pathlib import Path

import pytest

from genserve.config import Config
from genserve.core.install.address import at_address
from genserve.core.install.graves import bury, finish_removals
from genserve.core.install.places import free_bytes
from genserve.core.install.pull import pull_address
from genserve.core.install.staging import unfinished
from genserve.core.install.survey import survey
from genserve.errors import (
    DownloadFailed,
    GatedRepository,
    PickleRefused,
    UnusableDownload,
    WrongChecksum,
)
from genserve.outbound.checksum import Checksum
from genserve.outbound.client import open_client
from genserve.outbound.transfer import TRIES, Transfer
from tests.core.install.conftest import Puller, content_of
from tests.outbound.hub_server import Repository
from tests.outbound.repositories import lora, pipeline, wanted, weights

NAME = "someone/model"
VAE = "vae/diffusion_pytorch_model.safetensors"
GRAVE = ".removed-old-1"


def config(pull: Puller) -> Config:
    return Config(models_dir=pull.models, loras_dir=pull.loras, models={})


def from_address(pull: Puller, content: bytes, checksum: Checksum | None = None) -> None:
    """Pull a file that has this content as `m`."""
    pull.server.repositories["files/x"] = Repository({"m.safetensors": content})
    address = f"{pull.server.url}/elsewhere/files/x/m.safetensors"
    with open_client(address) as client:
        transfer = Transfer(client, free_bytes=free_bytes, first_pause_s=0.001)
        pull_address(at_address(address, checksum), pull.places(), transfer, pull.progress)


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html>log in first</html>",
        b"no weights" * 200,
        b"short",
        weights(1)[:-5],
        b"GGUF" * 9,
    ],
)
def test_a_file_that_is_no_weights_leaves_nothing(pull: Puller, content: bytes):
    with pytest.raises(UnusableDownload):
        from_address(pull, content)
    assert not (pull.staging / "m").exists()
    assert survey(config(pull)) == []


def test_an_address_that_nothing_came_from_leaves_nothing(pull: Puller):
    with pytest.raises(WrongChecksum):
        from_address(pull, lora(), Checksum.sha256("0" * 64))
    assert unfinished(pull.models) == []
    pull.server.break_after["files/x/m.safetensors"] = [0] * TRIES
    with pytest.raises(DownloadFailed):
        from_address(pull, lora())
    assert unfinished(pull.models) == []


def test_what_came_from_an_address_is_kept(pull: Puller):
    pull.server.break_after["files/x/m.safetensors"] = [500, *[0] * TRIES]
    with pytest.raises(DownloadFailed):
        from_address(pull, lora())
    assert [name for name, _ in unfinished(pull.models)] == ["m"]
    from_address(pull, lora())
    assert (pull.loras / "m.safetensors").read_bytes() == lora()


def test_a_licence_that_was_not_accepted_leaves_nothing(pull: Puller):
    pull.server.repositories[NAME] = Repository(pipeline(), gated=True)
    with pytest.raises(GatedRepository):
        pull()
    assert unfinished(pull.models) == []


# A model that lost its place to a kill between the two renames of a replacement


@pytest.fixture
def displaced(pull: Puller) -> dict[str, bytes]:
    """Its files, which lie in the staging folder."""
    files = pipeline()
    pull.server.repositories[NAME] = Repository(dict(files))
    pull()
    (pull.staging / "m").mkdir(parents=True)
    (pull.models / "m").rename(pull.staging / "m" / "replaced")
    return wanted(files)


def test_it_is_replaced_by_the_next_pull(pull: Puller, displaced: dict[str, bytes]):
    pull.server.repositories[NAME].files[VAE] = weights(42)
    pull(replace=True)
    assert content_of(pull.models / "m") == displaced | {VAE: weights(42)}
    assert not (pull.staging / "m").exists()


@pytest.mark.parametrize("index", [None, b"[]"])
def test_it_outlives_pulls_of_which_nothing_is_left(
    pull: Puller, displaced: dict[str, bytes], index: bytes | None
):
    """Where nothing comes, and where what comes is of no use."""
    repository = pull.server.repositories[NAME]
    repository.files["model_index.json"] = index or b"{}"
    repository.gated = index is None
    with pytest.raises(UnusableDownload if index else GatedRepository):
        pull(replace=True)
    assert content_of(pull.staging / "m" / "replaced") == displaced
    assert not (pull.staging / "m" / "m").exists()


# What a killed removal left


@pytest.fixture
def grave(pull: Puller) -> Path:
    folder = pull.staging / GRAVE
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "weights.safetensors").write_bytes(b"x" * 1000)
    return folder


def test_the_next_scan_deletes_the_rest(pull: Puller, grave: Path):
    assert survey(config(pull)) == []
    assert not grave.exists()


def test_the_next_pull_deletes_the_rest(pull: Puller, grave: Path):
    pull.server.repositories[NAME] = Repository({"a.ckpt": b"x"})
    with pytest.raises(PickleRefused):
        pull()
    assert grave.exists()  # nothing on the disk was touched
    pull.server.repositories[NAME] = Repository(pipeline())
    pull()
    assert not grave.exists()


def test_what_cannot_be_deleted_is_told_and_is_no_pull(pull: Puller, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "diary.txt").write_text("dear diary")
    pull.staging.mkdir(parents=True)
    (pull.staging / GRAVE).symlink_to(outside)
    [found] = survey(config(pull))
    assert (found.what, found.name, found.path) == ("stray", GRAVE, pull.staging / GRAVE)
    assert found.problem == f"{GRAVE} was removed, but cannot be deleted; delete it by hand"
    assert (outside / "diary.txt").exists()
    assert unfinished(pull.models) == []


def test_a_removal_that_another_command_helps_succeeds(pull: Puller):
    folder = pull.models / "m"
    for number in range(2000):
        (folder / str(number % 100)).mkdir(parents=True, exist_ok=True)
        (folder / str(number % 100) / str(number)).touch()
    removed = threading.Event()

    def help_on() -> None:
        while not removed.is_set():
            finish_removals(pull.staging)

    helper = threading.Thread(target=help_on)
    helper.start()
    try:
        bury(folder, pull.staging)
    finally:
        removed.set()
        helper.join()
    assert [*pull.staging.iterdir(), *pull.models.glob("m")] == []
