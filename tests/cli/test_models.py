"""`genserve models …` as operators run it: real processes, a real hub on loopback, real folders."""

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genserve.cli.sockets import listen
from tests.cli.command import FAKE, environment, genserve, one_line, write_config
from tests.cli.serving import serve, wait_until
from tests.core.install.conftest import content_of
from tests.outbound.hub_server import GOOD_TOKEN, HubServer, Repository, hub_server
from tests.outbound.repositories import lora, pipeline, wanted, weights

NAME = "someone/model"
MODELS: dict[str, Any] = {
    "mine": {"family": "flux", "source": NAME, "modes": ["text2img"]},
    "unsourced": {"family": "flux"},
}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server() as running:
        running.repositories[NAME] = Repository(pipeline())
        yield running


@pytest.fixture
def free_port() -> int:
    """A port at which nobody listens."""
    [taken] = listen("127.0.0.1", 0)
    port: int = taken.getsockname()[1]
    taken.close()
    return port


@pytest.fixture
def folder(tmp_path: Path, free_port: int) -> Path:
    write_config(tmp_path, {"server": {"port": free_port}, "models": MODELS})
    return tmp_path


def variables(hub: HubServer, folder: Path, **more: str) -> dict[str, str]:
    """The environment of a command that knows this hub and nobody's account."""
    nobody = {"HF_HOME": str(folder / "nobody"), "HF_TOKEN": "", "HF_HUB_OFFLINE": "0"}
    return nobody | {"HF_ENDPOINT": hub.url} | more


def models(
    hub: HubServer, folder: Path, *arguments: str, **more: str
) -> subprocess.CompletedProcess[str]:
    return genserve(folder, "models", *arguments, **variables(hub, folder, **more))


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The error, below the lines about progress."""
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1].removeprefix("genserve: ")


def told(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_model_of_the_configuration_is_pulled_from_a_mirror(hub: HubServer, folder: Path):
    done = models(hub, folder, "pull", "mine")
    assert done.returncode == 0, done.stderr
    assert "models/mine" in done.stdout
    assert "server" not in done.stdout  # none runs, so none is told, and none needs a restart
    assert "vae/diffusion_pytorch_model.safetensors" in done.stderr  # no terminal: a line each
    files = hub.repositories[NAME].files
    assert content_of(folder / "models" / "mine") == wanted(files)
    listed = {row["id"]: row for row in told(models(hub, folder, "list", "--json"))}
    assert (listed["mine"]["installed"], listed["mine"]["problem"]) == (True, None)
    again = models(hub, folder, "pull", "mine")
    assert again.returncode == 1
    assert "--force" in one_line(again)


def test_a_repository_gets_a_name_of_its_own_and_a_hint(hub: HubServer, folder: Path):
    hub.repositories["someone/Other"] = Repository(pipeline())
    answer = told(models(hub, folder, "pull", "someone/Other", "--json"))
    assert (answer["became"], answer["model_id"]) == ("model", None)
    assert "Other: {family: flux}" in answer["next"][0]
    assert "restart" in answer["next"][1]
    assert answer["server"] is None
    answer = told(models(hub, folder, "pull", "someone/Other@main", "--as", "mine", "--json"))
    assert (answer["path"], answer["model_id"]) == ("models/mine", "mine")


def test_the_repository_of_a_configured_model_becomes_that_model(hub: HubServer, folder: Path):
    answer = told(models(hub, folder, "pull", f"{hub.url}/{NAME}/tree/main", "--json"))
    assert answer["model_id"] == "mine"


def test_a_dry_run_tells_the_sizes_and_fetches_nothing(hub: HubServer, folder: Path):
    plan = told(models(hub, folder, "pull", "mine", "--dry-run", "--json"))
    commit = hub.repositories[NAME].commit
    assert (plan["repository"], plan["revision"], plan["gated"]) == (NAME, commit, False)
    sizes = {file["file"]: file["size_bytes"] for file in plan["files"]}
    assert sizes["vae/diffusion_pytorch_model.safetensors"] > 3000
    assert plan["size_bytes"] == sum(sizes.values())
    assert plan["free_bytes"] > 0
    for_people = models(hub, folder, "pull", "mine", "--dry-run").stdout
    assert "vae/diffusion_pytorch_model.safetensors" in for_people
    assert "into models/mine" in for_people
    assert hub.asked("resolve") == []
    assert not (folder / "models").exists()


def test_a_gated_model_gives_the_exact_steps(hub: HubServer, folder: Path):
    hub.repositories[NAME].gated = True
    dry = models(hub, folder, "pull", "mine", "--dry-run")
    assert dry.returncode == 0
    assert "licence must be accepted" in dry.stdout
    done = models(hub, folder, "pull", "mine")
    assert done.returncode == 1
    for step in (f"https://huggingface.co/{NAME}", "settings/tokens", "genserve models pull mine"):
        assert step in one_line(done)
    assert models(hub, folder, "pull", "mine", HF_TOKEN=GOOD_TOKEN).returncode == 0
    (folder / ".env").write_text(f"HF_TOKEN={GOOD_TOKEN}\n")
    assert models(hub, folder, "pull", "mine", "--force").returncode == 0


def test_offline_nothing_is_asked(hub: HubServer, folder: Path):
    done = models(hub, folder, "pull", "mine", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "HF_HUB_OFFLINE" in one_line(done)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["unknown"], 1, "mine, unsourced"),
        (["unsourced"], 1, "models.unsourced.source"),
        (["../evil"], 2, "../evil"),
        (["someone/model", "--as", "../evil"], 2, "../evil"),
        (["a/b/c"], 2, "a/b/c"),
        (["http://example.org/x.safetensors"], 2, "http://example.org"),
        (["ftp://example.org/x.safetensors"], 2, "ftp://example.org"),
        (["mine", "--sha256", "0" * 64], 2, "--sha256"),
        (["https://example.org/x.safetensors", "--sha256", "xyz"], 2, "64 hexadecimal digits"),
        (["https://example.org/x.ckpt"], 1, "x.ckpt"),
    ],
)
def test_what_cannot_be_pulled_is_told_in_one_line(
    hub: HubServer, folder: Path, arguments: list[str], code: int, named: str
):
    done = models(hub, folder, "pull", *arguments)
    assert done.returncode == code
    assert named in one_line(done)
    assert hub.asked("resolve") == []
    assert not (folder / "models").exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)]
)
def test_a_command_that_is_killed_leaves_no_model_and_the_next_goes_on(
    hub: HubServer, folder: Path, number: signal.Signals, code: int
):
    hub.repositories[NAME] = Repository(pipeline(size=2_000_000))
    hub.pause_s = 0.02
    command = [sys.executable, "-m", "genserve", "models", "pull", "mine"]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment(**variables(hub, folder)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # Tests that run in the background have SIGINT ignored, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        parts = folder / "models" / ".pulls" / "mine" / "mine"
        wait_until(lambda: sum(part.stat().st_size for part in parts.rglob("*.part")) > 100_000)
        process.send_signal(number)
        _, said = process.communicate()
    assert process.returncode == code
    assert b"Traceback" not in said
    assert [path.name for path in (folder / "models").iterdir()] == [".pulls"]
    listed = {row["id"]: row for row in told(models(hub, folder, "list", "--json"))}
    assert (listed["mine"]["installed"], listed["mine"]["problem"]) == (False, None)
    scanned = models(hub, folder, "scan")
    assert scanned.returncode == 1
    assert "cut short" in scanned.stdout
    hub.pause_s = 0
    hub.requests.clear()
    done = models(hub, folder, "pull", "mine")
    assert done.returncode == 0, done.stderr
    assert content_of(folder / "models" / "mine") == wanted(hub.repositories[NAME].files)
    assert any(request.range for request in hub.asked("elsewhere"))
    assert not (folder / "models" / ".pulls" / "mine").exists()


def test_a_lora_by_its_address_is_verified(hub: HubServer, folder: Path):
    hub.repositories["files/x"] = Repository({"night.safetensors": lora(), "page": b"<html>" * 9})
    address = f"{hub.url}/elsewhere/files/x/night.safetensors"
    wrong = models(hub, folder, "pull", address, "--sha256", "0" * 64)
    assert wrong.returncode == 1
    assert "expected sha256:0000" in last_line(wrong)
    assert not (folder / "loras").exists()
    dry = told(models(hub, folder, "pull", address, "--dry-run", "--json"))
    assert dry["size_bytes"] == len(lora())
    digest = hashlib.sha256(lora()).hexdigest()
    answer = told(models(hub, folder, "pull", address, "--sha256", digest, "--json"))
    assert (answer["became"], answer["path"]) == ("lora", "loras/night.safetensors")
    [row] = told(genserve(folder, "loras", "list", "--json"))
    assert (row["name"], row["base"]) == ("night", "flux")
    page = models(hub, folder, "pull", f"{hub.url}/elsewhere/files/x/page", "--as", "page")
    assert page.returncode == 1
    assert "web page" in last_line(page)


def test_a_checkpoint_by_its_address_is_a_model(hub: HubServer, folder: Path):
    hub.repositories["files/x"] = Repository({"dream.safetensors": weights(1)})
    address = f"{hub.url}/elsewhere/files/x/dream.safetensors"
    answer = told(models(hub, folder, "pull", address, "--as", "dream-8", "--json"))
    assert (answer["became"], answer["path"]) == ("checkpoint", "models/dream-8")
    assert list(content_of(folder / "models" / "dream-8")) == ["dream-8.safetensors"]


def test_scan_shows_everything_and_every_problem(hub: HubServer, folder: Path):
    assert models(hub, folder, "pull", "mine").returncode == 0
    assert models(hub, folder, "pull", NAME, "--as", "extra").returncode == 0
    assert models(hub, folder, "scan").returncode == 0
    place = folder / "models"
    (place / "extra" / "vae" / "config.json").unlink()
    (place / "loose.ckpt").write_bytes(b"x")
    (place / "loose.safetensors").write_bytes(weights(1))
    (place / "README.md").write_text("hello")
    (place / "empty").mkdir()
    (folder / "loras").mkdir()
    (folder / "loras" / "good.safetensors").write_bytes(lora())
    (folder / "loras" / "bad.pt").write_bytes(b"x")
    done = models(hub, folder, "scan", "--json")
    assert done.returncode == 1
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert set(found) == {
        "mine", "extra", "empty", "loose.ckpt", "loose.safetensors", "good", "bad",
    }  # fmt: skip
    assert (found["mine"]["what"], found["mine"]["used_by"]) == ("model", ["mine"])
    assert [name for name, row in found.items() if row["problem"] is None] == ["mine", "good"]
    assert "extra/vae/config.json" in found["extra"]["problem"]
    assert "may run code" in found["loose.ckpt"]["problem"]
    assert "folder of its own" in found["loose.safetensors"]["problem"]
    assert "bad.pt" in found["bad"]["problem"]


def test_info_shows_components_and_what_was_verified(hub: HubServer, folder: Path):
    before = told(models(hub, folder, "info", "mine", "--json"))
    assert (before["installed"], before["components"], before["source"]) == (False, [], NAME)
    assert models(hub, folder, "pull", "mine").returncode == 0
    shown = told(models(hub, folder, "info", "mine", "--json"))
    assert (shown["installed"], shown["family"], shown["modes"]) == (True, "flux", ["text2img"])
    assert shown["pulled_from"]["revision"] == hub.repositories[NAME].commit
    parts = {part["component"]: part for part in shown["components"]}
    assert parts["vae"]["class"] == "AutoencoderKL"
    assert (parts["vae"]["parameters"], parts["vae"]["dtype"]) == (1500, ["F16"])
    assert parts["scheduler"]["weights"] == []
    [vae] = parts["vae"]["weights"]
    content = hub.repositories[NAME].files["vae/diffusion_pytorch_model.safetensors"]
    digest = hashlib.sha256(content).hexdigest()
    assert vae["sha256"] == digest
    (folder / "models" / "mine" / ".genserve" / "source.json").unlink()
    [part] = [one for one in told(models(hub, folder, "info", "mine", "--json"))["components"]
              if one["component"] == "vae"]  # fmt: skip
    assert part["weights"][0]["sha256"] is None
    hashed = models(hub, folder, "info", "mine", "--hash")
    assert digest[:12] in hashed.stdout
    unknown = models(hub, folder, "info", "nothing")
    assert unknown.returncode == 1
    assert "nothing" in one_line(unknown)


def test_rm_deletes_what_is_a_model_and_nothing_else(hub: HubServer, folder: Path):
    assert models(hub, folder, "pull", "mine").returncode == 0
    place = folder / "models"
    silent = models(hub, folder, "rm", "mine")  # nobody is at a terminal to be asked
    assert silent.returncode == 1
    assert "--yes" in one_line(silent)
    outside = folder / "outside"
    outside.mkdir()
    (outside / "model_index.json").write_text("{}")
    (place / "link").symlink_to(outside)
    (place / "notes").mkdir()
    (place / "notes" / "diary.txt").write_text("dear diary")
    for name, named in [
        ("link", "it is a link"),
        ("notes", "does not look like a model"),
        ("nothing", "nothing of that name"),
        ("../outside", "../outside"),
        (".pulls", ".pulls"),
        (".", "."),
    ]:
        refused = models(hub, folder, "rm", name, "--yes")
        assert refused.returncode in (1, 2), name
        assert named in one_line(refused)
    assert (outside / "model_index.json").exists()
    assert (place / "mine").exists()
    done = models(hub, folder, "rm", "mine", "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("deleted models/mine")
    assert not (place / "mine").exists()
    assert list((place / ".pulls").iterdir()) == []


def test_rm_deletes_loras_and_unfinished_pulls(hub: HubServer, folder: Path):
    (folder / "loras").mkdir()
    (folder / "loras" / "night.safetensors").write_bytes(lora())
    unfinished = folder / "models" / ".pulls" / "half"
    unfinished.mkdir(parents=True)
    (unfinished / "x.part").write_bytes(b"x")
    assert models(hub, folder, "rm", "night", "--yes").returncode == 0
    assert models(hub, folder, "rm", "half", "--yes").returncode == 0
    assert list((folder / "loras").iterdir()) == []
    assert not unfinished.exists()


def test_the_running_server_loads_and_unloads_and_is_asked_before_a_removal(
    hub: HubServer, tmp_path: Path
):
    broken = {"family": "fake", "options": {"on_load": "error"}}
    settings = FAKE | {"models": FAKE["models"] | {"broken": broken}}
    place = tmp_path / "models" / "fake"
    place.mkdir(parents=True)
    (place / "model_index.json").write_text("{}")
    with serve(tmp_path, settings) as server:
        there = {"GENSERVE_URL": server.url}
        with server.client() as client:
            wait_until(lambda: client.get("/status").json()["workers"][0]["state"] == "idle")
        loaded = told(models(hub, tmp_path, "load", "fake", "--json", **there))
        assert [worker["outcome"] for worker in loaded["workers"]] == ["loaded"]
        again = models(hub, tmp_path, "load", "fake", **there)
        assert "already_loaded" in again.stdout
        warned = models(hub, tmp_path, "rm", "fake", "--yes", **there)
        assert "has it loaded (cpu-0)" in warned.stderr
        assert not place.exists()
        unloaded = told(models(hub, tmp_path, "unload", "fake", "--no-wait", "--json", **there))
        assert [worker["outcome"] for worker in unloaded["workers"]] == ["unloading"]
        for arguments, named in [
            (("rescan", "--api-key", "wrong"), "the server answered 401"),
            (("load", "broken"), "broken cannot be loaded"),
            (("load", "nothing"), "no model nothing"),
            (("unload", "../x"), ""),
        ]:
            refused = models(hub, tmp_path, *arguments, **there)
            assert refused.returncode == 1
            assert named in one_line(refused)
    for verb in (("load", "fake"), ("rescan",)):
        assert models(hub, tmp_path, *verb, **there).returncode == 3


def test_the_running_server_hears_of_what_is_pulled_and_removed(hub: HubServer, tmp_path: Path):
    hub.repositories["files/x"] = Repository({"night.safetensors": lora()})
    address = f"{hub.url}/elsewhere/files/x/night.safetensors"
    (tmp_path / "models").mkdir()
    (tmp_path / "loras").mkdir()
    with serve(tmp_path, FAKE | {"models": FAKE["models"] | MODELS}) as server:
        there = {"GENSERVE_URL": server.url}
        answer = told(models(hub, tmp_path, "pull", "mine", "--json", **there))
        assert [item["name"] for item in answer["server"]["added"]] == ["mine"]
        done = models(hub, tmp_path, "pull", address, **there)
        assert done.returncode == 0, done.stderr
        assert "the running server: lora night was added" in done.stdout
        assert "restart" not in done.stdout
        with server.client() as client:
            shown = {model["id"]: model for model in client.get("/models").json()["models"]}
            assert shown["mine"]["installed"]
            assert [one["name"] for one in client.get("/loras").json()["loras"]] == ["night"]
        removed = models(hub, tmp_path, "rm", "night", "--yes", **there)
        assert "the running server: lora night was removed" in removed.stdout
        refused = models(hub, tmp_path, "rm", "mine", "--yes", "--api-key", "wrong", **there)
        assert refused.returncode == 0
        assert "was not told of it" in refused.stderr
        again = models(hub, tmp_path, "rescan", **there)
        assert again.returncode == 0
        assert [line.split()[:3] for line in again.stdout.splitlines()[1:]] == [
            ["removed", "model", "mine"]
        ]
        assert told(models(hub, tmp_path, "rescan", "--json", **there))["removed"] == []
        assert "nothing is different" in models(hub, tmp_path, "rescan", **there).stdout
