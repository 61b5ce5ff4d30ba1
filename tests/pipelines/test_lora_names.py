"""Authors' names of layers against diffusers' own loader of the authors' checkpoints.

Each weight of a made-up checkpoint holds its own number in every row, and diffusers' converter
moves the rows; where they arrive is what our tables must say.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders import single_file_utils as loader

from genserve.pipelines.lora_names import (
    authors_names,
    layers_of,
    part_of,
    rows_of,
    table_of,
)
from tests.pipelines.loras import clip, flux, sd3, sdxl_unet, unet

SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD15: dict[str, Any] = {"cross_attention_dim": 768}


def on_meta(make: Callable[[], Any]) -> Any:
    """A network of full size without its weights."""
    with torch.device("meta"):
        return make()


def checkpoint(network: Any, prefix: str = "") -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """The authors' layers as columns of numbers that count through all rows of all of them."""
    layers, tensors, first_rows, count = layers_of(network), {}, {}, 0
    for name, paths, _ in authors_names(network, layers):
        if not all(path in layers for path in paths) or "processor" in name:
            continue
        rows = sum(rows_of(layers[path]) for path in paths)
        first_rows[name] = count
        numbers = torch.arange(count, count + rows, dtype=torch.float32)
        tensors[f"{prefix}{name}.weight"] = numbers.unsqueeze(1)
        tensors[f"{prefix}{name}.bias"] = numbers
        count += rows
    return tensors, first_rows


def arrived(network: Any, first_rows: dict[str, int]) -> dict[str, torch.Tensor]:
    """Where our table puts those rows: the network's layers as columns of the same numbers."""
    layers, table = layers_of(network), table_of(network)
    found = {path: torch.full((rows_of(layer),), -1.0) for path, layer in layers.items()}
    for name, first in first_rows.items():
        for piece in table[name.replace(".", "_")]:
            begin = first + piece.first_row
            numbers = torch.arange(begin, begin + piece.rows, dtype=torch.float32)
            found[piece.path][piece.into : piece.into + piece.rows] = numbers
    return found


def assert_equal_layers(
    converted: dict[str, torch.Tensor], network: Any, first_rows: dict[str, int]
) -> int:
    checked = 0
    for path, numbers in arrived(network, first_rows).items():
        if numbers[0] >= 0:
            assert torch.equal(converted[f"{path}.weight"].flatten(), numbers), path
            checked += 1
    return checked


def test_flux():
    network = on_meta(
        lambda: FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=True)
    )
    tensors, first_rows = checkpoint(network)
    for kind, count in (("double", 2), ("single", 2)):
        for n in range(count):
            streams = ("img_attn.", "txt_attn.") if kind == "double" else ("",)
            for stream in streams:
                for norm in ("query", "key"):
                    tensors[f"{kind}_blocks.{n}.{stream}norm.{norm}_norm.scale"] = torch.zeros(1)
    converted = loader.convert_flux_transformer_checkpoint_to_diffusers(tensors)
    assert assert_equal_layers(converted, network, first_rows) == 2 * 14 + 2 * 6 + 10


def test_sd3():
    network = on_meta(
        lambda: SD3Transformer2DModel(
            num_layers=3,
            num_attention_heads=24,
            caption_projection_dim=1536,
            dual_attention_layers=(0, 1),
        )
    )
    tensors, first_rows = checkpoint(network)
    tensors["pos_embed"] = torch.zeros(1)
    tensors["context_embedder.weight"] = tensors["context_embedder.bias"] = torch.zeros(1536)
    converted = loader.convert_sd3_transformer_checkpoint_to_diffusers(tensors)
    assert assert_equal_layers(converted, network, first_rows) > 50


@pytest.mark.parametrize("config", [SD15, SDXL], ids=["sd15", "sdxl"])
def test_unet(config: dict[str, Any]):
    network = on_meta(lambda: UNet2DConditionModel(**config))
    tensors, first_rows = checkpoint(network, "model.diffusion_model.")
    converted = loader.convert_ldm_unet_checkpoint(tensors, dict(network.config))
    # A layer may have two names here: the attentions' insides are the same in both.
    checked = assert_equal_layers(converted, network, first_rows)
    assert checked == len(layers_of(network)), "every layer of the UNet has an authors' name"


NETWORKS = [flux, sd3, unet, sdxl_unet, clip, lambda: clip(projection=True)]


@pytest.mark.parametrize("make", NETWORKS)
def test_every_layer_is_found_by_its_own_name_alone(make: Callable[[], Any]):
    network = make()
    table = table_of(network)
    for path, layer in layers_of(network).items():
        (piece,) = table[path.replace(".", "_")]
        assert (piece.path, piece.first_row, piece.into) == (path, 0, 0)
        assert piece.rows == layer.weight.shape[0]


FLUX_PARTS = {
    "transformer": None,
    "text_encoder": None,
    "text_encoder_2": type("T5Model", (), {})(),
}
SD3_PARTS = {**FLUX_PARTS, "text_encoder_2": None, "text_encoder_3": type("T5Model", (), {})()}
XL_PARTS = {"unet": None, "text_encoder": None, "text_encoder_2": None}


@pytest.mark.parametrize(
    ("layer", "parts", "expected"),
    [
        ("transformer.x_embedder", FLUX_PARTS, ("transformer", "x_embedder")),
        ("lora_transformer_x_embedder", FLUX_PARTS, ("transformer", "x_embedder")),
        ("diffusion_model.img_in", FLUX_PARTS, ("transformer", "img_in")),
        ("base_model.model.img_in", FLUX_PARTS, ("transformer", "img_in")),
        (
            "double_blocks.0.img_attn.qkv",
            FLUX_PARTS,
            ("transformer", "double_blocks_0_img_attn_qkv"),
        ),
        ("lora_unet_img_in", FLUX_PARTS, ("transformer", "img_in")),
        ("lycoris_x_embedder", FLUX_PARTS, ("transformer", "x_embedder")),
        ("lora_te1_a_b", FLUX_PARTS, ("text_encoder", "a_b")),
        ("lora_te3_a_b", FLUX_PARTS, ("text_encoder_2", "a_b")),
        ("lora_te3_a_b", SD3_PARTS, ("text_encoder_3", "a_b")),
        ("text_encoders.t5xxl.transformer.a.b", FLUX_PARTS, ("text_encoder_2", "a_b")),
        ("text_encoders.clip_l.transformer.a.b", SD3_PARTS, ("text_encoder", "a_b")),
        ("lora_te2_a_b", XL_PARTS, ("text_encoder_2", "a_b")),
        ("lora_te_a_b", XL_PARTS, ("text_encoder", "a_b")),
        ("lora_te3_a_b", XL_PARTS, ("text_encoder_3", "a_b")),
        ("unet.mid.attn1.processor.to_q", XL_PARTS, ("unet", "mid_attn1_to_q")),
        ("lora_unet_mid_block", XL_PARTS, ("unet", "mid_block")),
        ("text_encoder.a", {"unet": None}, ("text_encoder", "a")),
    ],
)
def test_whose_a_layer_is(layer: str, parts: dict[str, Any], expected: tuple[str, str]):
    assert part_of(layer, parts) == expected
