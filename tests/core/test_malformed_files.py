"""One file that is not as it should be costs one model, LoRA or word, and nothing else."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from genserve.config import Config
from genserve.core.catalog import Catalog
from genserve.store.loras import LoraFile
from tests.core.test_catalog import install
from tests.core.test_found_folders import DECODER, UNET, as_ordinary_user, weights
from tests.core.test_inventory import FLUX
from tests.store.tensors import raw_safetensors, safetensors

GBK = "说明".encode("gbk")
"""As unzip leaves a Chinese name that it does not know the encoding of."""
SHOWN = r"˵\udcc3\udcf7"
"""What of it is told: two of its bytes happen to be a letter in UTF-8."""
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
NOT_UTF8 = "its name is not UTF-8; rename it"
OTHERS = {"other": FLUX, "sd": {"family": "sd15"}}


def catalog(folder: Path, models: dict[str, Any]) -> Catalog:
    folders = {"models_dir": folder, "data_dir": folder / "data"}
    beside = {"loras_dir": folder / "loras", "embeddings_dir": folder / "embeddings"}
    return Catalog(Config.model_validate(folders | beside | {"models": models}))


def gbk(folder: Path, ending: str) -> Path:
    return folder / os.fsdecode(GBK + ending.encode())


def typed(dtype: object) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": [1], "data_offsets": [0, 4]}}


def written(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def named(component: object) -> dict[str, Any]:
    return {"_class_name": "FluxPipeline", "transformer": component}


INDEX = f"{WEIGHTS}.index.json"
MALFORMED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file with a name in another encoding": (
        lambda model: gbk(model, ".txt").write_text("hello"),
        f"dev/{SHOWN}.txt cannot be used: {NOT_UTF8}",
    ),
    "a folder with such a name": (
        lambda model: gbk(model / "transformer", "").mkdir(),
        f"dev/transformer/{SHOWN} cannot be used: {NOT_UTF8}",
    ),
    "a link to itself": (
        lambda model: (model / "round").symlink_to("round"),
        "dev/round is a link that leads nowhere",
    ),
    "a link to nothing": (
        lambda model: (model / "gone").symlink_to("nothing"),
        "dev/gone is a link that leads nowhere",
    ),
    "an index that names a file elsewhere": (
        lambda model: written(model / INDEX, {"weight_map": {"a": "/x"}}),
        f"dev/{INDEX} is broken",
    ),
    "an index of lists": (
        lambda model: written(model / INDEX, {"weight_map": {"a": ["x"]}}),
        f"dev/{INDEX} is broken",
    ),
    "an index that is a list": (
        lambda model: written(model / INDEX, {"weight_map": ["x"]}),
        f"dev/{INDEX} is broken",
    ),
    "an index with half a character": (
        lambda model: written(model / INDEX, {"weight_map": {"a": "\ud800"}}),
        r"dev/transformer/\ud800 is missing",
    ),
    "a component with half a character": (
        lambda model: written(model / "model_index.json", named(["\ud800", "X"])),
        r"dev/model_index.json: transformer is of \ud800",
    ),
    "weights of a type that is a list": (
        lambda model: raw_safetensors(model / WEIGHTS, typed(["F32"]), bytes(4)),
        f"dev/{WEIGHTS} has tensors of an unknown type",
    ),
    "weights with half a character": (
        lambda model: raw_safetensors(
            model / WEIGHTS, {"__metadata__": {"note": "\ud800"}} | typed("F32"), bytes(4)
        ),
        f"dev/{WEIGHTS} has a broken header",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_named_and_other_models_keep_serving(tmp_path: Path, name: str):
    spoil, told = MALFORMED[name]
    for model in ("dev", *OTHERS):
        install(tmp_path / model)
    spoil(tmp_path / "dev")
    found = catalog(tmp_path, {"dev": FLUX, **OTHERS})
    problem = found.entry("dev").problem
    assert problem is not None
    assert problem.startswith(told)
    assert problem.encode(), "it can be told"
    for model in OTHERS:
        assert found.entry(model).problem is None
        assert found.serving(model).spec.id == model


# What may not be read


def lends_a_tokenizer(folder: Path) -> Path:
    install(folder / "base")
    weights(folder / "dev" / "fine-tune.safetensors", UNET)
    return folder / "base"


def holds_the_vae(folder: Path) -> Path:
    install(folder / "dev")
    weights(folder / "vaes" / "vae.safetensors", DECODER)
    return folder / "vaes"


UNREADABLE: dict[str, tuple[Callable[[Path], Path], dict[str, Any], str]] = {
    "the base of a checkpoint": (
        lends_a_tokenizer,
        {"base": {"family": "sdxl"}, "dev": {"family": "sdxl", "base": "base"}},
        "base/tokenizer",
    ),
    "the folder of its VAE": (
        holds_the_vae,
        {"dev": FLUX | {"vae": "vaes/vae.safetensors"}},
        "vaes/vae.safetensors",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_named_and_other_models_keep_serving(name: str):
    prepare, models, told = UNREADABLE[name]
    with TemporaryDirectory() as temporary:  # whose folders above anybody may enter
        folder = Path(temporary)
        closed = prepare(folder)
        for model in OTHERS:
            install(folder / model)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        closed.chmod(0)
        with as_ordinary_user():
            found = catalog(folder, {**models, **OTHERS})
        closed.chmod(0o755)
    assert found.entry("dev").problem == f"{told} cannot be read: Permission denied"
    for model in OTHERS:
        assert found.entry(model).problem is None


def test_a_link_into_what_cannot_be_read_is_no_vae():
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        install(folder / "sd")
        weights(folder / "closed" / "vae.safetensors", DECODER)
        for name in ("linked", "linked.safetensors"):
            (folder / name).symlink_to(folder / "closed" / "vae.safetensors")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        (folder / "closed").chmod(0)
        with as_ordinary_user():
            found = catalog(folder, {"sd": {"family": "sd15", "vaes": True}})
        (folder / "closed").chmod(0o755)
    told = "linked.safetensors cannot be read: Permission denied"
    assert [(vae.name, vae.problem) for vae in found.extras.vaes] == [("linked", told)]
    assert found.entry("sd").problem is None


# LoRAs

LAYER = "lora_unet_double_blocks_0_img_attn_qkv"
FACTORS = {f"{LAYER}.lora_down.weight": (1, 1), f"{LAYER}.lora_up.weight": (1, 1)}


def tagged(path: Path, tags: str) -> Path:
    return safetensors(path, FACTORS, {"ss_tag_frequency": tags})


LORAS: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "tensors of a type that is a list": (
        lambda path: raw_safetensors(path, typed(["F32"]), bytes(4)),
        "bad.safetensors has tensors of an unknown type; take another version of it",
    ),
    "a tensor with half a character": (
        lambda path: safetensors(path, {"\ud800": (1,)}),
        "bad.safetensors has a broken header; download it again",
    ),
    "endlessly many tags": (lambda path: tagged(path, '{"a": {"cat": 1e999}}'), None),
    "no number of tags": (lambda path: tagged(path, '{"a": {"cat": NaN}}'), None),
    "a tag with half a character": (lambda path: tagged(path, r'{"a": {"\ud800": 1}}'), None),
    "a block with an endless number": (
        lambda path: safetensors(
            path,
            {
                f"transformer.transformer_blocks.{'9' * 5000}.attn.to_q.{factor}.weight": (1, 1)
                for factor in ("lora_A", "lora_B")
            },
        ),
        None,
    ),
}


def loras(folder: Path) -> dict[str, LoraFile]:
    """By name, beside one that is right."""
    install(folder / "dev")
    safetensors(folder / "loras" / "fine.safetensors", FACTORS)
    found = catalog(folder, {"dev": FLUX})
    assert found.entry("dev").problem is None
    by_name = {lora.name: lora for lora in found.loras()}
    assert by_name["fine"].problem is None
    return by_name


@pytest.mark.parametrize("name", LORAS)
def test_a_malformed_lora_leaves_the_others_alone(tmp_path: Path, name: str):
    write, told = LORAS[name]
    write(tmp_path / "loras" / "bad.safetensors")
    bad = loras(tmp_path)["bad"]
    assert bad.problem == told
    assert (bad.source is None) == (told is not None)
    "".join(bad.trigger_words).encode()


def test_a_lora_whose_name_is_not_utf8_is_told_to_be_renamed(tmp_path: Path):
    safetensors(gbk(tmp_path / "loras", ".safetensors"), FACTORS)
    (tmp_path / "loras" / "round.safetensors").symlink_to("round.safetensors")
    bad = loras(tmp_path)[SHOWN]
    assert bad.problem == f"{SHOWN}.safetensors cannot be used: {NOT_UTF8}"
    assert bad.source is None


def test_so_is_one_below_such_a_folder(tmp_path: Path):
    """A worker is told the whole path."""
    folder = gbk(tmp_path, "")
    install(folder / "dev")
    safetensors(folder / "loras" / "fine.safetensors", FACTORS)
    found = catalog(folder, {"dev": FLUX})
    told = "lies below a folder whose name is not UTF-8; rename that"
    assert [lora.problem for lora in found.loras()] == [f"fine.safetensors {told}"]
    assert found.entry("dev").problem == f"dev {told}"


# VAEs and embeddings


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt", ""])
def test_vaes_and_words_whose_names_are_not_utf8_are_told_to_be_renamed(
    tmp_path: Path, ending: str
):
    install(tmp_path / "sd")
    vae, word = gbk(tmp_path, ending), gbk(tmp_path / "embeddings", ending or ".pt")
    if ending:
        weights(vae, DECODER)
    else:
        weights(vae / "diffusion_pytorch_model.safetensors", DECODER)
        written(vae / "config.json", {"_class_name": "AutoencoderKL"})
    safetensors(word, {"emb_params": (1, 4)})
    found = catalog(tmp_path, {"sd": {"family": "sd15", "vaes": True, "embeddings": True}})
    for files, path in ((found.extras.vaes, vae), (found.extras.embeddings, word)):
        told = f"{SHOWN}{path.suffix} cannot be used: {NOT_UTF8}"
        assert [(file.name, file.problem) for file in files] == [(SHOWN, told)]
    assert found.entry("sd").problem is None
    spec = found.serving("sd").spec
    assert (spec.vaes, spec.embeddings) == ({}, {})


def test_a_vae_that_is_a_link_to_itself_is_told(tmp_path: Path):
    install(tmp_path / "sd")
    (tmp_path / "v.safetensors").symlink_to("v.safetensors")
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "embeddings" / "w.safetensors").symlink_to("w.safetensors")
    found = catalog(tmp_path, {"sd": {"family": "sd15", "vaes": True, "embeddings": True}})
    told = "v.safetensors is a link that leads nowhere; put the file itself there"
    assert [vae.problem for vae in found.extras.vaes] == [told]
    assert found.extras.embeddings == ()
    assert found.entry("sd").problem is None
