"""What a LoRA file's header tells, in the spellings that are in use."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from genserve.domain.lora import LoraKind, LoraSource
from genserve.file_hashes import FileHashes, FileStamp
from genserve.store.loras import LoraFile, changed_since, scan_loras
from tests.store.tensors import raw_safetensors, safetensors

Shapes = dict[str, tuple[int, ...]]


def scan(folder: Path) -> list[LoraFile]:
    return scan_loras(folder, FileHashes())


def only(folder: Path) -> LoraFile:
    (found,) = scan(folder)
    return found


def lora(layer: str, columns: int = 320, rows: int = 320, *, rank: int = 8) -> Shapes:
    """Kohya's layout where the layer's name says so, peft's otherwise."""
    down, up = ("lora_down", "lora_up") if layer.startswith("lora_") else ("lora_A", "lora_B")
    return {f"{layer}.{down}.weight": (rank, columns), f"{layer}.{up}.weight": (rows, rank)}


def loha(layer: str, columns: int, rows: int = 320) -> Shapes:
    ends: Shapes = {
        "w1_a": (rows, 4),
        "w1_b": (4, columns),
        "w2_a": (rows, 4),
        "w2_b": (4, columns),
    }
    return {f"{layer}.hada_{end}": shape for end, shape in ends.items()}


def lokr(layer: str, columns: int) -> Shapes:
    ends: Shapes = {"w1": (8, 8), "w2_a": (40, 2), "w2_b": (2, columns // 8)}
    return {f"{layer}.lokr_{end}": shape for end, shape in ends.items()}


FLUX: dict[str, Shapes] = {
    "diffusers": lora("transformer.single_transformer_blocks.0.attn.to_q", 3072),
    "double alone": lora("transformer.transformer_blocks.18.attn.add_q_proj", 3072),
    "peft": lora("base_model.model.transformer_blocks.3.ff.net.0.proj", 3072, 12288),
    "kohya": lora("lora_unet_double_blocks_0_img_attn_proj", 3072, 3072),
    "plain": lora("diffusion_model.single_blocks.0.linear1", 3072, 21504),
    "authors": lora("double_blocks.0.img_attn.qkv", 3072, 9216),
    "xlabs": {
        "double_blocks.0.processor.qkv_lora1.down.weight": (8, 3072),
        "double_blocks.0.processor.qkv_lora1.up.weight": (9216, 8),
    },
    "xlabs single": {
        "single_blocks.0.processor.qkv_lora.down.weight": (8, 3072),
        "single_blocks.0.processor.qkv_lora.up.weight": (9216, 8),
    },
    "with text encoders": lora("lora_unet_double_blocks_0_img_attn_proj", 3072)
    | lora("lora_te3_encoder_block_0_layer_0_SelfAttention_q", 4096),
    "lokr": lokr("lycoris_transformer_blocks_0_attn_to_q", 3072),
}


@pytest.mark.parametrize("spelling", FLUX)
def test_flux(tmp_path: Path, spelling: str) -> None:
    path = safetensors(tmp_path / "my lora.safetensors", FLUX[spelling])
    found = only(tmp_path)
    assert (found.name, found.size_bytes) == ("my lora", path.stat().st_size)
    assert (found.base, found.problem) == ("flux", None)
    assert found.rank == (2 if spelling == "lokr" else 8)


TO_K = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
SGM_TO_K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    ("shapes", "base"),
    [
        (lora(TO_K, 768), "sd15"),
        (lora(TO_K, 1024), "sd21"),
        (lora(TO_K, 2048), "sdxl"),
        (lora(SGM_TO_K, 2048), "sdxl"),
        (lora("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v", 768), "sd15"),
        (lora("unet.mid_block.attn2.processor.to_k", 768), "sd15"),
        (loha(TO_K, 768), "sd15"),
        (loha(TO_K, 2048), "sdxl"),
        (lokr(TO_K, 2048), "sdxl"),
        (lora("lora_te2_text_model_encoder_layers_0_mlp_fc1", 1280), "sdxl"),
        (lora("lora_unet_joint_blocks_0_x_block_attn_qkv", 1536), "sd3"),
        (lora("transformer.transformer_blocks.0.attn.to_q", 1536), "sd3"),
        (lora("transformer.transformer_blocks.30.attn.to_q", 2432), "sd3"),
        (lora("text_encoder_3.encoder.block.0.layer.0.SelfAttention.q", 4096), "sd3"),
        (lora("transformer.transformer_blocks.59.attn.to_q", 3072), None),  # Qwen-Image
        (lora("lora_unet_something_else"), None),
    ],
)  # fmt: skip
def test_families(tmp_path: Path, shapes: Shapes, base: str | None) -> None:
    safetensors(tmp_path / "a.safetensors", shapes)
    assert (only(tmp_path).base, only(tmp_path).problem) == (base, None)


@pytest.mark.parametrize(
    ("shapes", "kind", "rank"),
    [
        (lora("x", rank=16), LoraKind.LORA, 16),
        (loha("x", 320), LoraKind.LOHA, 4),
        (lokr("x", 320), LoraKind.LOKR, 2),
        ({"x.lokr_w1": (4, 4), "x.lokr_w2": (8, 8)}, LoraKind.LOKR, None),
        (lora("x", rank=16) | {"n.w_norm": (4,), "n.b_norm": (4,)}, LoraKind.LORA, 16),
    ],
)
def test_kinds(tmp_path: Path, shapes: Shapes, kind: LoraKind, rank: int | None) -> None:
    safetensors(tmp_path / "a.safetensors", shapes)
    assert (only(tmp_path).kind, only(tmp_path).rank) == (kind, rank)


@pytest.mark.parametrize(
    ("stated", "base"), [("sdxl_base_v1-0", "sdxl"), ("sd3_m", "sd3"), ("flux1", "flux")]
)
def test_what_a_file_says_of_itself_helps_where_its_names_do_not(
    tmp_path: Path, stated: str, base: str
) -> None:
    metadata = {"ss_base_model_version": stated}
    safetensors(tmp_path / "a.safetensors", lora("lora_unet_x"), metadata)
    assert only(tmp_path).base == base


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
    safetensors(tmp_path / "a.safetensors", lora("x"), metadata)
    assert only(tmp_path).trigger_words == words


def test_the_rank_is_the_commonest(tmp_path: Path) -> None:
    shapes = lora("x0", rank=64) | lora("x1", rank=32) | lora("x2", rank=32)
    safetensors(tmp_path / "a.safetensors", shapes)
    assert only(tmp_path).rank == 32


def test_files_that_cannot_be_used_are_listed_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    safetensors(folder / "good.safetensors", lora("x"))
    safetensors(folder / "model.safetensors", {"x.weight": (4, 8)})
    safetensors(folder / "dora.safetensors", lora("x") | {"x.dora_scale": (320, 1)})
    safetensors(folder / "half.safetensors", {"x.lora_A.weight": (4, 8)})
    safetensors(folder / "mixed.safetensors", lora("x") | {"x.hada_w1_a": (320, 4)})
    (folder / "old.PT").write_bytes(b"\x80\x04")
    (folder / "page.safetensors").write_text("<html>")
    whole = (folder / "good.safetensors").read_bytes()
    (folder / "short.safetensors").write_bytes(whole[:-10])
    outside = safetensors(tmp_path / "outside", lora("x"))
    (folder / "link.safetensors").symlink_to(outside)
    (folder / "README.md").write_text("hello")
    (folder / "sub").mkdir()
    assert {found.name: found.problem for found in scan(folder)} == {
        "dora": "dora.safetensors cannot be used: x.dora_scale is no part of a LoRA, LoHa or LoKr",
        "good": None,
        "half": "half.safetensors cannot be used: x.lora_A.weight is not whole: its layer has down,"
        " not down + up or down + mid + up",
        "link": "link.safetensors is a link that leads outside; put the file itself there",
        "mixed": "mixed.safetensors cannot be used: x.lora_A.weight is not whole: its layer has"
        " down + hada_w1_a + up, not down + up or down + mid + up",
        "model": "model.safetensors is not a LoRA; put models into the models folder",
        "old": "old.PT may run code; convert it to safetensors",
        "page": "page.safetensors is not a safetensors file; download it again",
        "short": "short.safetensors is incomplete: 10 bytes are missing; download it again",
    }
    assert [found.name for found in scan(folder) if found.source is not None] == ["good"]


def test_no_folder_no_loras(tmp_path: Path) -> None:
    assert scan(tmp_path / "none") == []


def test_an_empty_file_is_no_lora(tmp_path: Path) -> None:
    raw_safetensors(tmp_path / "a.safetensors", {}, b"")
    assert only(tmp_path).problem == (
        "a.safetensors is not a LoRA; put models into the models folder"
    )


# The same file, or another one


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "a.safetensors", lora("x"))
    assert only(tmp_path).source == LoraSource(
        path=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        size_bytes=path.stat().st_size,
        mtime_ns=path.stat().st_mtime_ns,
        inode=path.stat().st_ino,
    )


def test_hashes_are_remembered_until_a_file_changes(tmp_path: Path) -> None:
    folder, memory = tmp_path / "loras", tmp_path / "hashes"
    path = safetensors(folder / "a.safetensors", lora("x"))
    first = scan_loras(folder, FileHashes(memory))

    # Another content with the same size, time and inode: only a memory can miss it.
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert scan_loras(folder, FileHashes(memory)) == first

    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    (changed,) = scan_loras(folder, FileHashes(memory))
    assert changed.source is not None
    assert changed.source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_was_scanned_before_is_not_read_again(tmp_path: Path) -> None:
    kept = safetensors(tmp_path / "kept.safetensors", lora("x"))
    changing = safetensors(tmp_path / "changing.safetensors", lora("x"))
    known = scan(tmp_path)
    assert not any(changed_since(tmp_path, one) for one in known)
    for path in (kept, changing):  # a look inside would find both wrong
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + (path is changing)))
    assert [changed_since(tmp_path, one) for one in known] == [True, False]
    found = {one.name: one for one in scan_loras(tmp_path, FileHashes(), known)}
    assert found["kept"] == known[1]
    assert found["changing"].problem is not None


def test_a_file_that_takes_anothers_place_is_another_one(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "a.safetensors", lora("x"))
    (known,) = scan(tmp_path)
    other = safetensors(tmp_path / "other", lora("x"))
    stat = path.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)  # of the same size and time
    assert changed_since(tmp_path, known)
    path.unlink()
    assert changed_since(tmp_path, known)


def test_a_file_that_is_written_while_it_is_looked_at_cannot_be_used_yet(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "a.safetensors", lora("x"))

    class Meanwhile(FileHashes):
        """Somebody goes on writing while the hash is computed."""

        def sha256(self, stamp: FileStamp) -> str | None:
            os.utime(path, ns=(0, 1))
            return super().sha256(stamp)

    (found,) = scan_loras(tmp_path, Meanwhile())
    assert found.source is None
    assert found.problem == "a.safetensors is being written; wait until all of it is there"
    assert changed_since(tmp_path, found)
    assert only(tmp_path).problem is None
