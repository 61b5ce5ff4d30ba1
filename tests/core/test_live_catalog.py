"""The catalogue while weights come, change and go."""

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from genserve.config import Config
from genserve.core.live_catalog import LiveCatalog
from genserve.core.stocktaking import Item, Kind
from genserve.domain.request import GenerationRequest, LoraRef
from genserve.errors import UnknownLora, WeightsUnreadable
from tests.core.test_catalog import install
from tests.core.test_inventory import network
from tests.store.tensors import safetensors

LAYER = "transformer.single_transformer_blocks.0.attn.to_q"
MODELS: dict[str, dict[str, Any]] = {
    "big": {"family": "flux", "stand_in": "small", "loras": True},
    "small": {"family": "flux", "loras": True},
    "guided": {"family": "flux", "controls": {"canny": "canny"}, "modes": ["controlnet"]},
    "wordy": {"family": "sd15", "vaes": True, "embeddings": True},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    install(tmp_path / "models" / "small")
    (tmp_path / "loras").mkdir()
    return tmp_path


def live(folder: Path, look_every_s: float = 0.0) -> LiveCatalog:
    settings = {name: folder / name.removesuffix("_dir") for name in ("data_dir", "models_dir")}
    settings |= {"loras_dir": folder / "loras", "embeddings_dir": folder / "embeddings"}
    config = Config.model_validate(settings | {"models": MODELS})
    return LiveCatalog(config, look_every_s=look_every_s)


def lora(folder: Path, name: str = "new", rank: int = 4) -> Path:
    shapes = {f"{LAYER}.lora_A.weight": (rank, 8), f"{LAYER}.lora_B.weight": (8, rank)}
    return safetensors(folder / "loras" / f"{name}.safetensors", shapes)


def names(items: tuple[Item, ...]) -> list[str]:
    return [f"{item.kind} {item.name}" for item in items]


def naming(*loras: str) -> GenerationRequest:
    named = tuple(LoraRef(name=name) for name in loras)
    return GenerationRequest(model="small", prompt="a cat", loras=named)


# Asked for


async def test_nothing_new_is_nothing_changed(folder: Path):
    catalogs = live(folder)
    changes = await catalogs.rescan()
    assert (changes.added, changes.removed, changes.changed, changes.broken) == ((), (), (), ())


async def test_everything_that_came_is_told_and_served(folder: Path):
    catalogs = live(folder)
    assert catalogs.now.serving("big").spec.id == "small"
    install(folder / "models" / "big")
    network(folder / "models" / "canny")
    lora(folder)
    safetensors(folder / "embeddings" / "word.safetensors", {"emb_params": (2, 768)})
    decoder = {"decoder.conv_in.weight": (4, 4)}
    safetensors(folder / "models" / "bright.safetensors", decoder)
    changes = await catalogs.rescan()
    assert names(changes.added) == [
        "model big", "controlnet guided/canny", "lora new", "vae bright", "embedding word",
    ]  # fmt: skip
    assert all(item.available for item in changes.added)
    assert (changes.removed, changes.changed, changes.broken) == ((), (), ())
    assert catalogs.now.serving("big").spec.id == "big"
    catalogs.now.check(naming("new"))
    spec = catalogs.now.entry("wordy").spec
    assert (set(spec.vaes), set(spec.embeddings)) == ({"bright"}, {"word"})


async def test_what_is_gone_is_told(folder: Path):
    lora(folder)
    install(folder / "models" / "big")
    catalogs = live(folder)
    shutil.rmtree(folder / "models" / "big")
    (folder / "loras" / "new.safetensors").unlink()
    changes = await catalogs.rescan()
    assert names(changes.removed) == ["model big", "lora new"]
    assert [item.available for item in changes.removed] == [True, False]  # big: by its stand-in
    assert (changes.added, changes.changed) == ((), ())
    with pytest.raises(UnknownLora):
        catalogs.now.check(naming("new"))


async def test_a_real_model_ends_the_stand_ins_service_for_others(folder: Path):
    catalogs = live(folder)
    network(folder / "models" / "canny")
    install(folder / "models" / "guided")
    changes = await catalogs.rescan()
    assert names(changes.changed) == ["model big"]
    assert not changes.changed[0].available


async def test_weights_that_look_the_same_but_are_others_have_changed(folder: Path):
    catalogs = live(folder)
    spec = catalogs.now.entry("small").spec
    weights = folder / "models" / "small" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2] + b"\x3c\x00")
    changes = await catalogs.rescan()
    # big is drawn by small, but has no files of its own that could change
    assert names(changes.changed) == ["model small"]
    assert catalogs.now.entry("small").spec != spec


async def test_a_new_word_makes_another_spec_of_the_models_that_take_words_and_of_no_other(
    folder: Path,
):
    catalogs = live(folder)
    word = {"emb_params": (2, 768)}
    path = safetensors(folder / "embeddings" / "word.safetensors", word)
    before = {entry.spec.id: entry.spec for entry in catalogs.now.models()}
    await catalogs.rescan()
    with_word = {entry.spec.id: entry.spec for entry in catalogs.now.models()}
    assert {name for name in before if before[name] != with_word[name]} == {"wordy"}
    os.utime(path, ns=(1, 1))
    changes = await catalogs.rescan()
    assert names(changes.changed) == ["embedding word"]
    assert catalogs.now.entry("wordy").spec != with_word["wordy"]


async def test_what_is_broken_is_named_with_file_and_remedy_each_time(
    folder: Path, caplog: pytest.LogCaptureFixture
):
    install(folder / "models" / "big")
    (folder / "models" / "big" / "transformer" / "config.json").unlink()
    (folder / "models" / "canny").mkdir()
    (folder / "models" / "canny" / "config.json").write_text("{")
    whole = lora(folder).read_bytes()
    (folder / "loras" / "new.safetensors").write_bytes(whole[:-1])
    catalogs = live(folder)
    assert "new.safetensors is incomplete" in caplog.text
    caplog.clear()
    for _ in range(2):
        changes = await catalogs.rescan()
        assert (changes.added, changes.removed, changes.changed) == ((), (), ())
        problems = {item.name: item.problem or "" for item in changes.broken}
        assert set(problems) == {"big", "guided/canny", "new"}
        assert "big/transformer/config.json is missing; download" in problems["big"]
        assert "canny/config.json is not JSON; download it again" in problems["guided/canny"]
        assert "new.safetensors is incomplete" in problems["new"]
    assert caplog.text == ""  # it was told once
    (folder / "loras" / "new.safetensors").write_bytes(whole)
    changes = await catalogs.rescan()
    assert (names(changes.changed), changes.changed[0].available) == (["lora new"], True)


async def test_a_folder_that_cannot_be_read_changes_nothing(folder: Path):
    lora(folder)
    catalogs = live(folder)
    before = catalogs.now
    shutil.rmtree(folder / "loras")
    (folder / "loras").symlink_to("x" * 300)  # no file can be called so: not even root can look
    with pytest.raises(WeightsUnreadable, match="loras cannot be read"):
        await catalogs.rescan()
    await catalogs.look_for_loras(naming("new"))
    assert catalogs.now is before


# By itself


async def test_a_lora_that_nobody_knows_is_looked_for(folder: Path):
    catalogs = live(folder)
    lora(folder)
    models = catalogs.now.models()
    await catalogs.look_for_loras(GenerationRequest(model="small", prompt="a cat"))
    assert catalogs.now.loras() == []
    await catalogs.look_for_loras(naming("new"))
    catalogs.now.check(naming("new"))
    assert catalogs.now.models() == models


async def test_it_is_looked_for_only_now_and_then(folder: Path):
    catalogs = live(folder, look_every_s=3600)
    await catalogs.look_for_loras(naming("unknown"))
    lora(folder)
    await catalogs.look_for_loras(naming("new"))
    assert catalogs.now.loras() == []
    assert names((await catalogs.rescan()).added) == ["lora new"]


async def test_a_lora_that_was_changed_is_described_anew_at_once(folder: Path):
    path = lora(folder)
    catalogs = live(folder, look_every_s=3600)
    await catalogs.look_for_loras(naming("unknown"))  # the next look for unknown ones is far away
    before = catalogs.now
    lora(folder, rank=2)
    both = (catalogs.look_for_loras(naming("new")) for _ in range(2))
    await asyncio.gather(*both)
    assert [one.rank for one in catalogs.now.loras()] == [2]
    assert [one.rank for one in before.loras()] == [4]
    path.unlink()
    await catalogs.look_for_loras(naming("new"))
    assert catalogs.now.loras() == []


async def test_what_has_not_changed_is_not_looked_at(folder: Path):
    lora(folder)
    catalogs = live(folder)
    before = catalogs.now
    await catalogs.look_for_loras(naming("new"))
    assert catalogs.now is before


def test_kinds_are_words_for_people():
    assert [kind.value for kind in Kind] == ["model", "controlnet", "lora", "vae", "embedding"]
