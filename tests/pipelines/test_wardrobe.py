"""LoRAs on and off: what is worn, what is left when it is off, and what goes wrong on the way."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers.hooks import apply_group_offloading
from diffusers.quantizers.gguf.utils import GGUFParameter
from safetensors.torch import load_file

from genserve.domain.lora import LoraSource
from genserve.domain.request import LoraRef
from genserve.errors import LoraBroken, LoraDoesNotFit
from tests.pipelines import loras
from tests.pipelines.loras import bits, chance, flux_inputs, output, randn, wear

Q = "transformer_blocks.0.attn.to_q"
LAYERS = (Q, "transformer_blocks.1.ff.net.2", "single_transformer_blocks.0.proj_mlp")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, LoraSource]:
    """Three LoRAs of a small Flux network: two on the same layers, one for text encoders too."""
    network, encoder = loras.flux(), loras.clip()
    text = loras.diffusers_lora(
        encoder, ["encoder.layers.0.self_attn.q_proj"], "text_encoder.text_model."
    )
    return {
        "one": loras.write(
            tmp_path / "one.safetensors",
            loras.diffusers_lora(network, LAYERS, "transformer.", seed=1),
        ),
        "two": loras.write(
            tmp_path / "two.safetensors",
            loras.diffusers_lora(network, LAYERS[:2], "transformer.", seed=2),
        ),
        "both": loras.write(
            tmp_path / "both.safetensors",
            loras.diffusers_lora(network, [Q], "transformer.", seed=3) | text,
        ),
    }


def weight_of(network: Any, path: str = Q) -> torch.Tensor:
    weight: torch.Tensor = network.get_submodule(path).weight.detach().clone()
    return weight


def change_in(files: dict[str, LoraSource], name: str, path: str = Q) -> torch.Tensor:
    tensors: loras.Tensors = load_file(files[name].path)
    up, down = (tensors[f"transformer.{path}.lora_{end}.weight"] for end in "BA")
    return up @ down


def test_two_at_once_add_up_in_any_order(files: dict[str, LoraSource]):
    network, clothes = loras.flux(), loras.wardrobe()
    plain = weight_of(network)
    wear(clothes, {"transformer": network}, files, one=0.5, two=-0.25)
    expected = plain + 0.5 * change_in(files, "one") - 0.25 * change_in(files, "two")
    torch.testing.assert_close(weight_of(network), expected, atol=1e-6, rtol=0)
    both = bits(network)
    wear(clothes, {"transformer": network}, files)
    wear(clothes, {"transformer": network}, files, two=-0.25, one=0.5)
    assert bits(network) == both


def test_one_after_another_is_only_the_last(files: dict[str, LoraSource]):
    network, other, clothes = loras.flux(), loras.flux(), loras.wardrobe()
    wear(clothes, {"transformer": network}, files, one=1.0)
    wear(clothes, {"transformer": network}, files, two=0.5)
    wear(loras.wardrobe(), {"transformer": other}, files, two=0.5)
    assert bits(network) == bits(other)


def test_a_negative_weight_is_the_mirror_image(files: dict[str, LoraSource]):
    network, clothes = loras.flux(), loras.wardrobe()
    plain = weight_of(network)
    wear(clothes, {"transformer": network}, files, one=1.0)
    there = weight_of(network) - plain
    wear(clothes, {"transformer": network}, files, one=-1.0)
    torch.testing.assert_close(weight_of(network) - plain, -there, atol=1e-6, rtol=0)


def test_a_weight_of_zero_is_no_lora_at_all(files: dict[str, LoraSource]):
    network, clothes = loras.flux(), loras.wardrobe()
    plain = bits(network)
    wear(clothes, {"transformer": network}, files, one=1.0)
    assert bits(network) != plain
    wear(clothes, {"transformer": network}, files, one=0.0)
    assert bits(network) == plain
    assert clothes.outfit({"transformer": network}) == ((),)
    missing = LoraSource(path="/nowhere", sha256="0" * 64, size_bytes=1, mtime_ns=1, inode=1)
    wear(clothes, {"transformer": network}, {"gone": missing}, gone=0.0)


def test_the_text_encoders_have_a_weight_of_their_own(files: dict[str, LoraSource]):
    parts = {"transformer": loras.flux(), "text_encoder": loras.clip()}
    clothes = loras.wardrobe()
    plain = {name: bits(part) for name, part in parts.items()}

    def changed() -> set[str]:
        return {name for name, part in parts.items() if bits(part) != plain[name]}

    wear(clothes, parts, files, both=1.0)
    assert changed() == {"transformer", "text_encoder"}
    as_strong = bits(parts["text_encoder"])
    wear(clothes, parts, files, both=(0.5, 1.0))
    assert bits(parts["text_encoder"]) == as_strong
    wear(clothes, parts, files, both=(1.0, 0.0))
    assert changed() == {"transformer"}
    wear(clothes, parts, files, both=(0.0, 1.0))
    assert changed() == {"text_encoder"}


def test_the_second_text_encoder_of_sdxl(tmp_path: Path):
    encoder, clothes = loras.clip(projection=True), loras.wardrobe()
    path = "text_model.encoder.layers.1.mlp.fc1"
    tensors = loras.kohya_lora(encoder, {path: path}, "lora_te2_", alpha=None)
    file = loras.write(tmp_path / "a.safetensors", tensors)
    plain = weight_of(encoder, path)
    parts = {"unet": loras.unet(), "text_encoder": loras.clip(), "text_encoder_2": encoder}
    assert wear(clothes, parts, {"it": file}, it=1.0) == ()
    name = "lora_te2_" + path.replace(".", "_")
    product = tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"]
    torch.testing.assert_close(weight_of(encoder, path), plain + product)


def test_sd3_has_its_authors_one_matrix_in_three(tmp_path: Path):
    network, by, name = loras.sd3(), chance(1), "lora_unet_joint_blocks_0_x_block_attn2_qkv"
    down, up = randn(2, 16, by=by), randn(48, 2, by=by)
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    file = loras.write(tmp_path / "a.safetensors", tensors)
    ends = [f"transformer_blocks.0.attn2.to_{end}" for end in "qkv"]
    plain = [weight_of(network, path) for path in ends]
    wear(loras.wardrobe(), {"transformer": network}, {"it": file}, it=1.0)
    for path, before, rows in zip(ends, plain, torch.split(up, 16), strict=True):
        torch.testing.assert_close(weight_of(network, path), before + rows @ down)


def test_parts_that_the_model_does_not_have_are_left_out_and_told(files: dict[str, LoraSource]):
    parts = {"transformer": loras.flux()}
    (told,) = wear(loras.wardrobe(), parts, files, both=1.0)
    assert told.code == "lora_layers_left_out"
    assert told.detail == "both: its layers for text_encoder (1) were left out."


# What is worn stays worn


def test_the_same_set_again_costs_nothing(files: dict[str, LoraSource]):
    network, clothes = loras.flux(), loras.wardrobe()
    merged: list[str] = []
    asked = [LoraRef(name="one"), LoraRef(name="two", weight=0.5)]
    for _ in range(2):
        clothes.wear({"transformer": network}, asked, files, check=lambda: merged.append("x"))
    assert len(merged) == len(LAYERS)
    asked.reverse()
    clothes.wear({"transformer": network}, asked, files, check=lambda: merged.append("x"))
    assert len(merged) == len(LAYERS)


def test_a_network_of_two_models_wears_what_the_one_that_draws_asks_for(
    files: dict[str, LoraSource],
):
    shared, clothes = loras.clip(), loras.wardrobe()
    plain = bits(shared)
    first = {"transformer": loras.flux(), "text_encoder": shared}
    second = {"transformer": loras.flux(), "text_encoder": shared}
    wear(clothes, first, files, both=1.0)
    dressed = bits(shared)
    wear(clothes, second, files)
    assert bits(shared) == plain
    assert clothes.outfit(first)[0] != ()
    assert clothes.outfit(first)[1] == ()
    wear(clothes, first, files, both=1.0)
    assert bits(shared) == dressed


def test_a_network_that_is_gone_takes_its_pristine_weights_with_it(files: dict[str, LoraSource]):
    network, clothes = loras.flux(), loras.wardrobe()
    empty = clothes.held_bytes
    wear(clothes, {"transformer": network}, files, one=1.0)
    worn = clothes.held_bytes
    pristine = sum(weight_of(network, path).nbytes for path in LAYERS)
    assert worn - empty > pristine
    del network
    gc.collect()
    assert clothes.held_bytes == worn - pristine


def test_a_file_that_was_read_is_not_read_again_while_there_is_room(files: dict[str, LoraSource]):
    network, clothes = loras.flux(), loras.wardrobe()
    wear(clothes, {"transformer": network}, files, one=1.0)
    Path(files["one"].path).unlink()
    wear(clothes, {"transformer": network}, files, two=1.0)
    wear(clothes, {"transformer": network}, files, one=1.0)

    tight = loras.wardrobe(files_bytes=1)
    wear(tight, {"transformer": network}, files, two=1.0)
    wear(tight, {"transformer": network}, files, both=1.0)
    Path(files["two"].path).unlink()
    with pytest.raises(LoraBroken):
        wear(tight, {"transformer": network}, files, two=1.0)


# However the weights are kept


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once_and_restored_to_the_bit(
    files: dict[str, LoraSource], dtype: torch.dtype
):
    network, clothes = loras.flux().to(dtype), loras.wardrobe()
    plain, pristine = weight_of(network), bits(network)
    wear(clothes, {"transformer": network}, files, one=1.0, two=0.3)
    exact = plain.float() + change_in(files, "one") + 0.3 * change_in(files, "two")
    torch.testing.assert_close(
        weight_of(network).float(), exact.to(dtype).float(), atol=0, rtol=4e-3
    )
    wear(clothes, {"transformer": network}, files)
    assert bits(network) == pristine


def test_layerwise_casting_to_float8(files: dict[str, LoraSource]):
    network, clothes = loras.flux(), loras.wardrobe()
    network.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    inputs = flux_inputs(chance(1))
    pristine, plain = bits(network), output(network, inputs)
    assert weight_of(network).dtype is torch.float8_e4m3fn
    wear(clothes, {"transformer": network}, files, one=1.0)
    assert weight_of(network).dtype is torch.float8_e4m3fn
    assert not torch.equal(output(network, inputs), plain)
    wear(clothes, {"transformer": network}, files)
    assert bits(network) == pristine
    assert torch.equal(output(network, inputs), plain)


def test_a_sum_beyond_the_largest_number_stays_a_number(tmp_path: Path):
    network = loras.flux().to(torch.float8_e4m3fn)  # up to 448
    name = f"transformer.{Q}"
    tensors = {
        f"{name}.lora_A.weight": torch.ones(1, 32),
        f"{name}.lora_B.weight": torch.full((32, 1), 900.0),
    }
    file = loras.write(tmp_path / "a.safetensors", tensors)
    wear(loras.wardrobe(), {"transformer": network}, {"it": file}, it=1.0)
    assert (weight_of(network).float() == 448).all()


@pytest.mark.parametrize("offload", ["sequential", "group"])
def test_weights_that_wait_outside_the_network(files: dict[str, LoraSource], offload: str):
    expected, network = loras.flux(), loras.flux()
    inputs, cpu = flux_inputs(chance(1)), torch.device("cpu")
    wear(loras.wardrobe(), {"transformer": expected}, files, one=1.0)
    plain = output(network, inputs)
    if offload == "sequential":
        cpu_offload(network, cpu)
        assert next(network.parameters()).is_meta
    else:
        apply_group_offloading(network, onload_device=cpu, offload_type="leaf_level")
    clothes = loras.wardrobe()
    wear(clothes, {"transformer": network}, files, one=1.0)
    assert torch.equal(output(network, inputs), output(expected, inputs))
    wear(clothes, {"transformer": network}, files)
    assert torch.equal(output(network, inputs), plain)


def test_packed_weights_are_refused_with_the_remedy(files: dict[str, LoraSource]):
    network = loras.flux()
    packed = GGUFParameter(torch.zeros(32, 34, dtype=torch.uint8), quant_type=8)
    network.get_submodule(Q).weight = packed
    with pytest.raises(LoraDoesNotFit) as refused:
        wear(loras.wardrobe(), {"transformer": network}, files, one=1.0)
    text = refused.value.detail("en")
    assert f"transformer.{Q}.lora_A.weight" in text
    assert "quantization: none" in text
