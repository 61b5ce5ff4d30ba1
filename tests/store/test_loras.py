"""What a LoRA file's header tells, in the spellings that are in use."""

import json
from pathlib import Path

import pytest

from genserve.store.weights import LoraFile, scan_loras
from tests.store.tensors import safetensors


def only(folder: Path) -> LoraFile:
    (found,) = scan_loras(folder)
    return found


FLUX = {
    "diffusers": "transformer.single_transformer_blocks.0.attn.to_q.lora_{}.weight",
    "double": "transformer.transformer_blocks.0.attn.add_q_proj.lora_{}.weight",
    "kohya": "lora_unet_double_blocks_0_img_attn_proj.lora_{}.weight",
    "plain": "diffusion_model.single_blocks.0.linear1.lora_{}.weight",
}


@pytest.mark.parametrize("spelling", FLUX)
def test_flux(tmp_path: Path, spelling: str) -> None:
    down, up = ("down", "up") if spelling == "kohya" else ("A", "B")
    shapes = {FLUX[spelling].format(down): (16, 3072), FLUX[spelling].format(up): (3072, 16)}
    path = safetensors(tmp_path / "my lora.safetensors", shapes)
    found = only(tmp_path)
    assert found == LoraFile(name="my lora", size_bytes=path.stat().st_size, base="flux", rank=16)


@pytest.mark.parametrize(
    ("tensor", "width", "base"),
    [
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", 768, "sd15"),
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", 1024, "sd21"),
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", 2048, "sdxl"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", 1280, "sdxl"),
        ("lora_unet_something_else", 320, None),
    ],
)
def test_stable_diffusion(tmp_path: Path, tensor: str, width: int, base: str | None) -> None:
    safetensors(tmp_path / "a.safetensors", {f"{tensor}.lora_down.weight": (8, width)})
    assert (only(tmp_path).base, only(tmp_path).rank) == (base, 8)


def test_what_a_file_says_of_itself_helps_where_its_names_do_not(tmp_path: Path) -> None:
    shapes = {"lora_unet_x.lora_down.weight": (4, 320)}
    safetensors(tmp_path / "a.safetensors", shapes, {"ss_base_model_version": "sdxl_base_v1-0"})
    assert only(tmp_path).base == "sdxl"


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, ()),
        ({"modelspec.trigger_phrase": "sks dog"}, ("sks dog",)),
        ({"trigger_words": "ohwx, woman ,"}, ("ohwx", "woman")),
        (
            {"ss_tag_frequency": json.dumps({"10_a": {"cat": 3, "sks": 9}, "b": {"cat": 8}})},
            ("cat", "sks"),
        ),
        ({"ss_tag_frequency": "{broken"}, ()),
        ({"ss_tag_frequency": "[1]"}, ()),
        ({"ss_tag_frequency": '{"a": {"b": "many"}}'}, ()),
    ],
)
def test_trigger_words(tmp_path: Path, metadata: dict[str, str], words: tuple[str, ...]) -> None:
    safetensors(tmp_path / "a.safetensors", {"x.lora_A.weight": (4, 8)}, metadata)
    assert only(tmp_path).trigger_words == words


def test_the_rank_is_the_commonest(tmp_path: Path) -> None:
    shapes = {f"x{n}.lora_A.weight": (32 if n else 64, 100) for n in range(3)}
    safetensors(tmp_path / "a.safetensors", shapes, {"modelspec.hash_sha256": "0x" + "AB" * 32})
    assert (only(tmp_path).rank, only(tmp_path).sha256) == (32, "ab" * 32)


def test_files_that_cannot_be_used_are_listed_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    safetensors(folder / "good.safetensors", {"x.lora_A.weight": (4, 8)})
    safetensors(folder / "model.safetensors", {"x.weight": (4, 8)})
    (folder / "old.pt").write_bytes(b"\x80\x04")
    (folder / "page.safetensors").write_text("<html>")
    outside = safetensors(tmp_path / "outside", {"x.lora_A.weight": (4, 8)})
    (folder / "link.safetensors").symlink_to(outside)
    (folder / "README.md").write_text("hello")
    (folder / "sub").mkdir()
    assert {found.name: found.problem for found in scan_loras(folder)} == {
        "good": None,
        "link": "link.safetensors is a link that leads outside; put the file itself there",
        "model": "model.safetensors is not a LoRA; put models into the models folder",
        "old": "old.pt may run code; convert it to safetensors",
        "page": "page.safetensors is not a safetensors file",
    }


def test_no_folder_no_loras(tmp_path: Path) -> None:
    assert scan_loras(tmp_path / "none") == []
