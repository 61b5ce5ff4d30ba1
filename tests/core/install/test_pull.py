"""A pull puts a whole, sound model into its place, or nothing at all; cut short, it goes on."""

import fcntl
import json
import re
from pathlib import Path

import pytest

from genserve.core.install.places import Became
from genserve.core.install.staging import NOTES, open_staging, unfinished
from genserve.errors import (
    AlreadyInstalled,
    BadModelName,
    DownloadFailed,
    GatedRepository,
    NotEnoughDisk,
    PickleRefused,
    PullInProgress,
    UnusableDownload,
    WrongChecksum,
)
from genserve.outbound.transfer import TRIES
from genserve.store.weights import scan_model
from tests.core.install.conftest import Puller, content_of
from tests.outbound.hub_server import GOOD_TOKEN, Repository
from tests.outbound.repositories import INDEX, lora, pipeline, tensors, wanted, weights

VAE = "vae/diffusion_pytorch_model.safetensors"
NAME = "someone/model"
ABSENT = INDEX | {"text_encoder": ["transformers", "CLIPTextModel"]}
DIFFUSION = INDEX | {
    "_class_name": "StableDiffusionPipeline",
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
}


@pytest.fixture
def files(pull: Puller) -> dict[str, bytes]:
    """What the repository someone/model holds."""
    found = pipeline()
    pull.server.repositories[NAME] = Repository(found)
    return found


def fetched(pull: Puller) -> list[str]:
    """The files that were asked for, as often as they were."""
    asked = [request.path for request in pull.server.requests]
    found = [re.match(r"/someone/\w+/resolve/\w+/(.*)", path) for path in asked]
    return [match[1] for match in found if match]


def test_a_whole_model_is_installed(pull: Puller, files: dict[str, bytes]):
    installed = pull()
    folder = pull.models / "m"
    assert content_of(folder) == wanted(files)
    assert (installed.became, installed.path, installed.pipeline) == (
        Became.MODEL,
        folder,
        "FluxPipeline",
    )
    assert installed.size_bytes == sum(map(len, wanted(files).values()))
    assert scan_model(folder).problem is None
    assert not (pull.staging / "m").exists()
    assert sorted(fetched(pull)) == sorted(wanted(files))  # each once
    progress = pull.progress
    assert (progress.total, progress.have + progress.came) == (installed.size_bytes,) * 2


def test_it_is_noted_where_it_came_from(pull: Puller, files: dict[str, bytes]):
    pull()
    notes = json.loads((pull.models / "m" / NOTES).read_bytes())
    assert notes["repository"] == NAME
    assert notes["revision"] == pull.server.repositories[NAME].commit
    assert notes["files"].keys() == wanted(files).keys()
    assert notes["files"][VAE].startswith("sha256:")


def test_what_was_cut_short_goes_on(pull: Puller, files: dict[str, bytes]):
    files |= pipeline(size=100_000)
    pull.server.break_after[f"{NAME}/{VAE}"] = [60_000, *[0] * TRIES]
    with pytest.raises(DownloadFailed):
        pull()
    assert not (pull.models / "m").exists()
    [(name, size)] = unfinished(pull.models)
    assert name == "m"
    assert size >= 60_000
    pull.server.requests.clear()
    pull()
    assert content_of(pull.models / "m") == wanted(files)
    assert pull.server.asked(VAE)[-1].range == "bytes=60000-"
    assert "model_index.json" not in fetched(pull)  # it was there already


def test_a_newer_commit_takes_over_what_is_the_same(pull: Puller, files: dict[str, bytes]):
    pull.server.break_after[f"{NAME}/{VAE}"] = [0] * TRIES
    with pytest.raises(DownloadFailed):
        pull()
    changed = "transformer/diffusion_pytorch_model-00001-of-00002.safetensors"
    files[changed] = weights(77)
    pull.server.requests.clear()
    pull()
    assert content_of(pull.models / "m") == wanted(files)
    assert changed in fetched(pull)
    assert "transformer/diffusion_pytorch_model-00002-of-00002.safetensors" not in fetched(pull)


def test_a_wrong_checksum_installs_nothing(pull: Puller, files: dict[str, bytes]):
    pull.server.wrong.add(f"{NAME}/{VAE}")
    with pytest.raises(WrongChecksum) as wrong:
        pull()
    assert VAE in str(wrong.value.params["file"])
    assert not (pull.models / "m").exists()
    assert not (pull.staging / "m" / "m" / f"{VAE}.part").exists()
    pull.server.wrong.clear()
    pull()
    assert content_of(pull.models / "m") == wanted(files)


def test_a_gated_model_gives_the_steps_and_comes_with_a_token(
    pull: Puller, files: dict[str, bytes]
):
    pull.server.repositories[NAME].gated = True
    with pytest.raises(GatedRepository):
        pull()
    assert not (pull.models / "m").exists()
    pull.token = GOOD_TOKEN
    pull()
    assert content_of(pull.models / "m") == wanted(files)


def test_a_disk_that_is_too_small_is_told_before_anything_large_comes(
    pull: Puller, files: dict[str, bytes]
):
    pull.room = 5000
    with pytest.raises(NotEnoughDisk) as full:
        pull()
    assert full.value.params["free"] == "5.0 kB"
    assert fetched(pull) == ["model_index.json"]
    pull.room = None
    pull()


def test_what_is_there_already_needs_no_room(pull: Puller, files: dict[str, bytes]):
    files |= pipeline(size=100_000)
    pull.server.break_after[f"{NAME}/{VAE}"] = [*[60_000] * 1, *[0] * TRIES]
    with pytest.raises(DownloadFailed):
        pull()
    pull.room = 45_000
    pull()
    assert content_of(pull.models / "m") == wanted(files)


def test_pickles_alone_are_refused_by_name(pull: Puller):
    pull.server.repositories[NAME] = Repository({"config.json": b"{}", "weights.ckpt": b"x" * 9})
    with pytest.raises(PickleRefused) as refused:
        pull()
    assert "weights.ckpt" in refused.value.detail("en")
    assert fetched(pull) == []
    assert not pull.models.exists()


@pytest.mark.parametrize(
    ("replaced", "problem"),
    [
        ({"model_index.json": json.dumps(ABSENT).encode()}, "m/text_encoder is missing"),
        ({VAE: b"no weights at all" * 99}, "is not a safetensors file"),
        ({"vae/config.json": b"{"}, "is not JSON"),
        ({"model_index.json": b"[]"}, "model_index.json"),
    ],
)
def test_what_cannot_be_loaded_is_not_installed(pull: Puller, replaced, problem: str):
    pull.server.repositories[NAME] = Repository(pipeline(replaced))
    with pytest.raises(UnusableDownload) as unusable:
        pull()
    assert problem in unusable.value.detail("en")
    assert not (pull.models / "m").exists()
    assert unfinished(pull.models) == []


def test_a_model_of_foreign_code_is_refused_before_it_is_fetched(pull: Puller):
    index = {"_class_name": "X", "unet": ["their_package", "Net"]}
    pull.server.repositories[NAME] = Repository(
        pipeline({"model_index.json": json.dumps(index).encode()})
    )
    with pytest.raises(UnusableDownload) as unusable:
        pull()
    assert "their_package" in unusable.value.detail("en")
    assert fetched(pull) == ["model_index.json"]


def test_what_no_recipe_reads_is_neither_fetched_nor_missed(pull: Puller):
    """As of finetunes of Stable Diffusion, whose safety checker is often a pickle."""
    unread = {
        "safety_checker/config.json": b"{}",
        "safety_checker/pytorch_model.bin": b"x" * 2000,
        "feature_extractor/preprocessor_config.json": b"{}",
        "image_encoder/config.json": b"{}",
        "image_encoder/model.safetensors": weights(5),
    }
    whole = pipeline({"model_index.json": json.dumps(DIFFUSION).encode()})
    pull.server.repositories[NAME] = Repository(whole | unread)
    pull()
    assert content_of(pull.models / "m") == wanted(whole)
    assert scan_model(pull.models / "m").problem is None
    assert not set(unread) & set(fetched(pull))


def test_what_is_installed_is_replaced_only_by_force(pull: Puller, files: dict[str, bytes]):
    pull()
    files[VAE] = weights(42)
    pull.server.requests.clear()
    with pytest.raises(AlreadyInstalled):
        pull()
    assert fetched(pull) == []
    pull(replace=True)
    assert content_of(pull.models / "m") == wanted(files)
    assert not (pull.staging / "m").exists()


def test_an_empty_folder_is_no_model(pull: Puller, files: dict[str, bytes]):
    (pull.models / "m").mkdir(parents=True)
    pull()
    assert content_of(pull.models / "m") == wanted(files)


def test_a_controlnet_is_installed_as_a_part(pull: Puller):
    files = {"config.json": b"{}", "diffusion_pytorch_model.safetensors": weights(1)}
    pull.server.repositories[NAME] = Repository(files | {"x.bin": b"y" * 2000})
    installed = pull(folder=pull.models / "controls" / "canny")
    assert installed.became is Became.PART
    assert content_of(pull.models / "controls" / "canny") == files


def test_a_lora_goes_to_the_loras(pull: Puller):
    pull.server.repositories[NAME] = Repository({"style.safetensors": lora(), "a.png": b"z"})
    installed = pull(name="style")
    assert (installed.became, installed.path) == (Became.LORA, pull.loras / "style.safetensors")
    assert installed.path.read_bytes() == lora()
    assert [path.name for path in pull.loras.iterdir()] == ["style.safetensors"]
    assert content_of(pull.models) == {}
    with pytest.raises(AlreadyInstalled):
        pull(name="style")
    assert pull(name="style", replace=True).path == installed.path


def test_one_file_of_many_is_a_checkpoint(pull: Puller):
    both = {"one.safetensors": weights(1), "two.safetensors": tensors({"x": (600,)})}
    pull.server.repositories[NAME] = Repository(both)
    installed = pull(path="two.safetensors")
    assert installed.became is Became.CHECKPOINT
    assert content_of(pull.models / "m") == {"two.safetensors": both["two.safetensors"]}


def test_a_gguf_file_is_a_checkpoint(pull: Puller):
    pull.server.repositories[NAME] = Repository({"q4.gguf": b"GGUF" + bytes(3000)})
    assert pull().became is Became.CHECKPOINT
    assert list(content_of(pull.models / "m")) == ["q4.gguf"]


def test_two_commands_do_not_fetch_the_same(pull: Puller, files: dict[str, bytes]):
    with open_staging(pull.models, "m"), pytest.raises(PullInProgress):
        pull()
    pull()


def test_a_lock_whose_file_is_gone_is_no_lock(pull: Puller, files: dict[str, bytes]):
    lock = pull.staging / "m" / "lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        lock.unlink()  # as the command that is done with it does
        pull()


@pytest.mark.parametrize("name", ["..", "../m", "a/b", "/etc", ".hidden", "a..b", "", "ü", "a b"])
def test_names_that_could_lead_elsewhere_are_refused(
    pull: Puller, files: dict[str, bytes], name: str
):
    with pytest.raises(BadModelName):
        pull(name=name)
    assert fetched(pull) == []


def test_paths_that_could_lead_elsewhere_are_no_files(pull: Puller, files: dict[str, bytes]):
    """Whatever a hub lists."""
    evil = ["../outside.safetensors", "vae/../../outside.json", "/etc/passwd.txt", "vae/.x.json"]
    files |= dict.fromkeys(evil, b"{}")
    pull()
    assert not set(evil) & set(fetched(pull))
    assert [path.name for path in pull.folder.iterdir()] == ["models"]


def test_what_a_server_would_look_at_is_untouched_while_it_comes(
    pull: Puller, files: dict[str, bytes]
):
    """Every file of a pull under way lies below one hidden folder."""
    pull.server.break_after[f"{NAME}/{VAE}"] = [0] * TRIES
    with pytest.raises(DownloadFailed):
        pull()
    assert [path.name for path in pull.models.iterdir()] == [".pulls"]
    assert (pull.staging / "m" / "m" / "model_index.json").exists()


def test_a_folder_that_cannot_be_written_to_is_told(pull: Puller, files: dict[str, bytes]):
    pull.models.parent.mkdir(exist_ok=True)
    Path(pull.models).write_text("a file")
    with pytest.raises(OSError):
        pull()
