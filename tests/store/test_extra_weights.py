"""Single files: checkpoints, VAEs and embeddings are told apart, and bad ones are refused."""

from pathlib import Path

import pytest

from genserve.store.extra_weights import scan_checkpoint, scan_embeddings, scan_vaes
from tests.store.tensors import safetensors

UNET = {"model.diffusion_model.input_blocks.0.0.weight": (4, 4)}
VAE = {"decoder.conv_in.weight": (4, 4), "encoder.conv_in.weight": (4, 4)}


def vae_folder(folder: Path, class_name: str = "AutoencoderKL") -> Path:
    safetensors(folder / "diffusion_pytorch_model.safetensors", VAE)
    (folder / "config.json").write_text(f'{{"_class_name": "{class_name}"}}')
    return folder


def test_a_folder_with_one_checkpoint_is_a_model(tmp_path: Path):
    folder = tmp_path / "model"
    assert not scan_checkpoint(folder, "sd15", None).present
    (folder / "tokenizer").mkdir(parents=True)
    safetensors(folder / "model.safetensors", UNET)
    found = scan_checkpoint(folder, "sd15", None)
    assert (found.present, found.problem) == (True, None)
    safetensors(folder / "model.safetensors", {**UNET, "more": (2,)})
    assert scan_checkpoint(folder, "sd15", None).revision != found.revision
    (folder / "unet").mkdir()
    (folder / "unet" / "config.json").write_text("{}")
    assert scan_checkpoint(folder, "sd15", None).problem is None


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("one.safetensors", "two.safetensors"), "several .safetensors"),
        (("lora",), "no checkpoint of Stable Diffusion"),
        (("model.safetensors", "old.ckpt"), "old.ckpt may run code"),
        (("model.safetensors", "hack.py"), "hack.py is code"),
        (("cut",), "incomplete"),
        ((), "no .safetensors"),
    ],
)
def test_what_is_no_checkpoint(tmp_path: Path, files: tuple[str, ...], words: str):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("x")
    for name in files:
        if name == "lora":
            safetensors(folder / "lora.safetensors", {"lora_unet_x.lora_up.weight": (4, 4)})
        elif name == "cut":
            whole = safetensors(folder / "cut.safetensors", UNET)
            whole.write_bytes(whole.read_bytes()[:-8])
        elif name.endswith(".safetensors"):
            safetensors(folder / name, UNET)
        else:
            (folder / name).write_bytes(b"x")
    found = scan_checkpoint(folder, "sd15", None)
    assert found.present
    assert words in (found.problem or "")


def test_vaes_are_found_beside_the_models(tmp_path: Path):
    vae_folder(tmp_path / "folder")
    vae_folder(tmp_path / "unet", "UNet2DConditionModel")
    safetensors(tmp_path / "file.safetensors", VAE)
    original = {f"first_stage_model.{name}": shape for name, shape in VAE.items()}
    safetensors(tmp_path / "original.safetensors", original)
    safetensors(tmp_path / "whole.safetensors", {**UNET, **original})
    safetensors(tmp_path / "lora.safetensors", {"lora_unet_x.lora_up.weight": (4, 4)})
    (tmp_path / "notes.txt").write_text("x")
    found = scan_vaes(tmp_path)
    assert [vae.name for vae in found] == ["file", "folder", "original"]
    assert all(vae.problem is None for vae in found)
    assert scan_vaes(tmp_path / "absent") == []


def test_a_vae_that_cannot_be_used_says_why(tmp_path: Path):
    folder = vae_folder(tmp_path / "folder")
    (folder / "extra.pt").write_bytes(b"x")
    (tmp_path / "cut.safetensors").write_bytes(b"\0" * 20)
    outside = safetensors(tmp_path.parent / "outside.safetensors", VAE)
    (tmp_path / "link.safetensors").symlink_to(outside)
    problems = {vae.name: vae.problem or "" for vae in scan_vaes(tmp_path)}
    assert "extra.pt may run code" in problems["folder"]
    assert "safetensors" in problems["cut"]
    assert "leads outside" in problems["link"]


def test_embeddings_are_few_vectors(tmp_path: Path):
    safetensors(tmp_path / "one.safetensors", {"emb_params": (4, 768)})
    safetensors(tmp_path / "xl.safetensors", {"clip_l": (2, 768), "clip_g": (2, 1280)})
    safetensors(tmp_path / "flat.safetensors", {"<x>": (768,)})
    safetensors(tmp_path / "lora.safetensors", {"x.lora_up.weight": (320, 4), "y": (1, 2, 3)})
    (tmp_path / "pickle.pt").write_bytes(b"x")
    (tmp_path / "cut.safetensors").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    found = {embedding.name: embedding.problem for embedding in scan_embeddings(tmp_path)}
    assert found.keys() == {"one", "xl", "flat", "lora", "pickle", "cut"}
    assert found["one"] is found["xl"] is found["flat"] is None
    assert "no embedding" in (found["lora"] or "")
    assert "may run code" in (found["pickle"] or "")
    assert "safetensors" in (found["cut"] or "")
    assert scan_embeddings(tmp_path / "absent") == []
