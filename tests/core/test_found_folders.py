"""Folders as operators really leave them: of two layouts, of another kind, not readable."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from tests.core.test_catalog import install
from tests.core.test_inventory import FLUX, catalog, redux

SD: dict[str, Any] = {"sd": {"family": "sd15"}, "xl": {"family": "sdxl"}}
UNET = "model.diffusion_model.input_blocks.0.0.weight"
DECODER = "decoder.conv_in.weight"
NOBODY = 65534


def weights(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: numpy.zeros(4, numpy.float16) for name in names}, path)


def problem(folder: Path, models: dict[str, Any], model_id: str) -> str | None:
    return catalog(folder, models).entry(model_id).problem


# Checkpoints


def test_a_checkpoint_needs_its_tokenizers(tmp_path: Path):
    """It would be found out by the first task otherwise, after the small models have left."""
    weights(tmp_path / "xl" / "finetune.safetensors", UNET)
    for tokenizer in ("tokenizer", "tokenizer_2"):
        told = problem(tmp_path, SD, "xl")
        assert told is not None
        assert told.startswith(f"xl/{tokenizer} is missing: a checkpoint file has no tokenizer")
        (tmp_path / "xl" / tokenizer).mkdir()
    assert problem(tmp_path, SD, "xl") is None


def test_a_base_lends_a_checkpoint_its_tokenizers(tmp_path: Path):
    models = {"xl": {"family": "sdxl"}, "finetune": {"family": "sdxl", "base": "xl"}}
    install(tmp_path / "xl")
    weights(tmp_path / "finetune" / "some.safetensors", UNET)
    assert problem(tmp_path, models, "finetune") is not None
    for tokenizer in ("tokenizer", "tokenizer_2"):
        (tmp_path / "xl" / tokenizer).mkdir()
    assert problem(tmp_path, models, "finetune") is None


def test_of_sd3_only_text_encoders_that_are_there_need_a_tokenizer(tmp_path: Path):
    models = {"sd3": {"family": "sd3"}}
    weights(tmp_path / "sd3" / "some.safetensors", UNET, "text_encoders.clip_g.weight")
    told = problem(tmp_path, models, "sd3")
    assert told is not None
    assert told.startswith("sd3/tokenizer_2 is missing")
    (tmp_path / "sd3" / "tokenizer_2").mkdir()
    assert problem(tmp_path, models, "sd3") is None


def test_a_file_of_other_weights_is_no_checkpoint(tmp_path: Path):
    weights(tmp_path / "sd" / "lora.safetensors", "lora.weight")
    told = "sd/lora.safetensors is no checkpoint of Stable Diffusion"
    assert problem(tmp_path, SD, "sd") == told


def test_checkpoints_beside_a_whole_folder_do_not_count(tmp_path: Path):
    """As the makers' repositories have them: the folder is loaded, so it is what is looked at."""
    install(tmp_path / "sd")
    for name in ("v1-5-pruned.safetensors", "v1-5-pruned-emaonly.safetensors"):
        weights(tmp_path / "sd" / name, UNET)
    assert problem(tmp_path, SD, "sd") is None
    transformer = tmp_path / "sd" / "transformer" / "diffusion_pytorch_model.safetensors"
    transformer.write_bytes(transformer.read_bytes()[:-3])
    told = "sd/transformer/diffusion_pytorch_model.safetensors is incomplete"
    assert told in str(problem(tmp_path, SD, "sd"))


def test_what_no_recipe_reads_may_be_missing(tmp_path: Path):
    install(tmp_path / "sd")
    index = tmp_path / "sd" / "model_index.json"
    content = json.loads(index.read_text()) | {
        "_class_name": "StableDiffusionPipeline",
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    }
    index.write_text(json.dumps(content))
    assert problem(tmp_path, SD, "sd") is None


# Parts


def test_a_part_that_the_base_does_not_have_either_is_missing(tmp_path: Path):
    install(tmp_path / "dev")
    redux(tmp_path / "redux")
    models = {"dev": FLUX, "redux": FLUX | {"base": "dev", "modes": ["redux"]}}
    assert problem(tmp_path, models, "redux") is None
    for name in ("image_embedder", "image_encoder"):
        (tmp_path / "redux" / name).rename(tmp_path / name)
        told = f"redux/{name} is missing; download the whole model"
        assert problem(tmp_path, models, "redux") == told
        (tmp_path / name).rename(tmp_path / "redux" / name)


# VAEs


@pytest.mark.parametrize(
    ("name", "names", "told"),
    [
        ("fine.safetensors", (DECODER,), None),
        ("lora.safetensors", ("lora.weight",), "lora.safetensors is no VAE, but other weights"),
        ("old.ckpt", (DECODER,), "old.ckpt may run code; convert it to safetensors"),
        ("vae.sft", (DECODER,), "vae.sft is no .safetensors file; take the VAE in that format"),
    ],
)
def test_a_vae_that_the_configuration_names_is_looked_at(
    tmp_path: Path, name: str, names: tuple[str, ...], told: str | None
):
    install(tmp_path / "sd")
    weights(tmp_path / name, *names)
    assert problem(tmp_path, {"sd": {"family": "sd15", "vae": name}}, "sd") == told


def test_a_vae_that_is_cut_off_or_elsewhere_is_told(tmp_path: Path):
    install(tmp_path / "models" / "sd")
    models = {"sd": {"family": "sd15", "vae": "vae.safetensors"}}
    vae = tmp_path / "models" / "vae.safetensors"
    weights(tmp_path / "elsewhere.safetensors", DECODER)
    vae.symlink_to(tmp_path / "elsewhere.safetensors")
    assert "leads outside" in str(problem(tmp_path / "models", models, "sd"))
    vae.unlink()
    vae.write_bytes((tmp_path / "elsewhere.safetensors").read_bytes()[:-1])
    assert "incomplete" in str(problem(tmp_path / "models", models, "sd"))


def test_a_pickle_beside_the_models_is_told_at_the_start(tmp_path: Path):
    (tmp_path / "old.ckpt").write_bytes(b"")
    models = {"sd": {"family": "sd15", "vaes": True}}
    (vae,) = catalog(tmp_path, models).extras.vaes
    assert (vae.name, vae.problem) == ("old", "old.ckpt may run code; convert it to safetensors")


# Permissions


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Root may read everything, whatever a folder's permissions are."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_cannot_be_read_leaves_the_others_alone():
    models = {"dev": FLUX, "other": FLUX, "sd": {"family": "sd15"}}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        for name in models:
            install(folder / name)
        for path in folder.rglob("*"):
            path.chmod(0o755)
        for name in ("dev", "sd"):
            (folder / name).chmod(0)
        with as_ordinary_user():
            found = catalog(folder, models)
    for name in ("dev", "sd"):
        assert found.entry(name).problem == f"{name} cannot be read: Permission denied"
    assert found.serving("other").spec.id == "other"
