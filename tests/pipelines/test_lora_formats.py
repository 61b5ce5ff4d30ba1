"""Every layout of LoRA files: what a network makes with it must be what diffusers or peft make.

Beside each of ours stands a copy of the network that the libraries load the same file into.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.loaders import FluxLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from peft import LoHaConfig, LoKrConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lycoris_utils import LycorisConfig

from genserve.domain.lora import LoraSource
from tests.pipelines import loras
from tests.pipelines.conftest import TINY
from tests.pipelines.loras import chance, output, randn


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def as_dressed(
    parts: Mapping[str, Any], file: LoraSource, inputs: Mapping[str, Any], *, weight: float = 1.0
) -> torch.Tensor:
    """What the main network makes with the file on."""
    network = parts.get("transformer", parts.get("unet"))
    plain = output(network, inputs)
    assert loras.wear(loras.wardrobe(), parts, {"it": file}, it=weight) == ()
    dressed = output(network, inputs)
    assert not torch.allclose(plain, dressed, atol=1e-3), "the LoRA does too little to be tested"
    return dressed


def by_diffusers(
    pipe: Any, network: Any, path: Path, inputs: Mapping[str, Any], *, weight: float = 1.0
) -> torch.Tensor:
    """What a copy of the network makes when diffusers loads the file."""
    pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name="it")
    pipe.set_adapters(["it"], [weight])
    return output(network, inputs)


# FLUX


@pytest.fixture
def tiny() -> Any:
    return FluxPipeline.from_pretrained(TINY, dtype=torch.float32, local_files_only=True)


def flux_inputs() -> dict[str, Any]:
    by = chance(3)
    return {
        "hidden_states": randn(1, 6, 64, by=by, scale=1),
        "encoder_hidden_states": randn(1, 5, 128, by=by, scale=1),
        "pooled_projections": randn(1, 64, by=by, scale=1),
        "timestep": torch.tensor([0.5]),
        "guidance": torch.tensor([3.5]),
        "img_ids": torch.zeros(6, 3),
        "txt_ids": torch.zeros(5, 3),
    }


def compare_on_tiny(tiny: Any, path: Path, file: LoraSource, weight: float = 0.7) -> None:
    parts = {"transformer": copy.deepcopy(tiny.transformer)}
    dressed = as_dressed(parts, file, flux_inputs(), weight=weight)
    expected = by_diffusers(tiny, tiny.transformer, path, flux_inputs(), weight=weight)
    assert_close(dressed, expected)


FLUX_LAYERS = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.1.attn.add_v_proj",
    "transformer_blocks.1.attn.to_out.0",
    "transformer_blocks.0.ff.net.0.proj",
    "transformer_blocks.0.norm1.linear",
    "single_transformer_blocks.2.attn.to_k",
    "single_transformer_blocks.3.proj_mlp",
    "single_transformer_blocks.3.proj_out",
    "x_embedder",
)


def test_flux_in_diffusers_layout(tiny: Any, tmp_path: Path):
    tensors = loras.diffusers_lora(tiny.transformer, FLUX_LAYERS, "transformer.")
    file = loras.write(tmp_path / "a.safetensors", tensors)
    compare_on_tiny(tiny, tmp_path / "a.safetensors", file)


@pytest.mark.parametrize("more", [{}, {"use_rslora": True}, {"alpha_pattern": {"to_q": 9.0}}])
def test_flux_with_the_alpha_in_the_files_metadata(tiny: Any, tmp_path: Path, more: dict[str, Any]):
    tensors = loras.diffusers_lora(tiny.transformer, FLUX_LAYERS[:4], "transformer.")
    own = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    config = {"r": loras.RANK, "lora_alpha": 3, "target_modules": list(FLUX_LAYERS[:4]), **more}
    FluxPipeline.save_lora_weights(
        tmp_path, transformer_lora_layers=own, transformer_lora_adapter_metadata=config
    )
    (path,) = tmp_path.iterdir()
    compare_on_tiny(tiny, path, loras.source_of(path))


KOHYA_FLUX = {
    "transformer_blocks.1.attn.to_out.0": "double_blocks.1.img_attn.proj",
    "transformer_blocks.0.attn.to_add_out": "double_blocks.0.txt_attn.proj",
    "transformer_blocks.0.ff.net.2": "double_blocks.0.img_mlp.2",
    "transformer_blocks.0.norm1_context.linear": "double_blocks.0.txt_mod.lin",
    "single_transformer_blocks.1.proj_out": "single_blocks.1.linear2",
    "single_transformer_blocks.1.norm.linear": "single_blocks.1.modulation.lin",
}


XLABS, AUTHORS, KOHYA = (
    (".down.weight", ".up.weight"),
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_down.weight", ".lora_up.weight"),
)


def fused(name: str, parts: int, ends: tuple[str, str], *, seed: int = 5) -> loras.Tensors:
    """A LoRA of a matrix that holds several of the tiny model's, of 160 rows each."""
    by = chance(seed)
    down, up = randn(loras.RANK, 160, by=by), randn(160 * parts, loras.RANK, by=by)
    return {name + ends[0]: down, name + ends[1]: up}


def test_flux_in_kohyas_layout(tiny: Any, tmp_path: Path):
    tensors = loras.kohya_lora(tiny.transformer, KOHYA_FLUX, "lora_unet_")
    tensors |= fused("lora_unet_double_blocks_0_txt_attn_qkv", 3, KOHYA)
    tensors["lora_unet_double_blocks_0_txt_attn_qkv.alpha"] = torch.tensor(8.0)
    file = loras.write(tmp_path / "a.safetensors", tensors)
    compare_on_tiny(tiny, tmp_path / "a.safetensors", file)


def test_flux_in_xlabs_layout(tiny: Any, tmp_path: Path):
    tensors = fused("double_blocks.0.processor.qkv_lora1", 3, XLABS)
    tensors |= fused("double_blocks.1.processor.qkv_lora2", 3, XLABS, seed=6)
    tensors |= fused("double_blocks.1.processor.proj_lora1", 1, XLABS, seed=7)
    tensors |= fused("double_blocks.1.processor.proj_lora2", 1, XLABS, seed=8)
    tensors |= fused("single_blocks.3.processor.qkv_lora", 3, XLABS, seed=9)
    file = loras.write(tmp_path / "a.safetensors", tensors)
    compare_on_tiny(tiny, tmp_path / "a.safetensors", file)


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "base_model.model."])
def test_flux_in_its_authors_layout(tiny: Any, tmp_path: Path, prefix: str):
    """Their one matrix is our several: cut by hand, for diffusers wants all layers or none."""
    qkv, single = "double_blocks.1.img_attn.qkv", "single_blocks.0.linear1"
    tensors = fused(prefix + qkv, 3, AUTHORS)
    by = chance(11)
    tensors[f"{prefix}{single}.lora_A.weight"] = randn(loras.RANK, 160, by=by)
    tensors[f"{prefix}{single}.lora_B.weight"] = randn(3 * 160 + 640, loras.RANK, by=by)
    file = loras.write(tmp_path / "a.safetensors", tensors)
    own, ends = {}, ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    for name, path in ((qkv, "transformer_blocks.1"), (single, "single_transformer_blocks.0")):
        down, up = (tensors[f"{prefix}{name}.lora_{end}.weight"] for end in "AB")
        for end, rows in zip(
            ends, torch.split(up, [160, 160, 160, up.shape[0] - 480]), strict=True
        ):
            if rows.numel():
                own[f"transformer.{path}.{end}.lora_A.weight"] = down.clone()
                own[f"transformer.{path}.{end}.lora_B.weight"] = rows.clone()
    loras.write(tmp_path / "own.safetensors", own)
    compare_on_tiny(tiny, tmp_path / "own.safetensors", file)


def test_flux_of_full_size_in_kohyas_layout_as_diffusers_converts_it():
    """diffusers' converter knows FLUX.1's sizes only; so no network, but its names and rows."""
    from diffusers import FluxTransformer2DModel

    from genserve.domain.lora import LoraKind
    from genserve.pipelines.lora_maths import change_of
    from genserve.pipelines.lora_names import table_of

    with torch.device("meta"):
        network = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    by, name = chance(2), "lora_unet_single_blocks_0_linear1"
    down, up = randn(2, 3072, by=by), randn(3 * 3072 + 12288, 2, by=by)
    factors = {"down": down, "up": up, "alpha": torch.tensor(1.0)}
    theirs = FluxLoraLoaderMixin.lora_state_dict(
        {
            f"{name}.lora_down.weight": down.clone(),
            f"{name}.lora_up.weight": up.clone(),
            f"{name}.alpha": torch.tensor(1.0),
        }
    )
    change = change_of(LoraKind.LORA, factors, None)
    pieces = table_of(network)["single_blocks_0_linear1"]
    assert len(pieces) == 4
    for piece in pieces:
        ours = torch.zeros(64, 3072)  # of each layer the first rows
        change.add_to(ours, 1.0, piece.first_row)
        down, up = (theirs[f"transformer.{piece.path}.lora_{end}.weight"] for end in "AB")
        assert_close(ours, up[:64] @ down)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_flux_text_encoder(tiny: Any, tmp_path: Path, layout: str):
    encoder = tiny.text_encoder
    paths = [f"encoder.layers.0.self_attn.{end}_proj" for end in ("q", "k", "v", "out")]
    if layout == "diffusers":
        tensors = loras.diffusers_lora(encoder, paths, "text_encoder.text_model.")
        tensors |= loras.diffusers_lora(tiny.transformer, FLUX_LAYERS[:1], "transformer.")
    else:
        names = {path: f"text_model.{path}" for path in [*paths, "encoder.layers.0.mlp.fc1"]}
        tensors = loras.kohya_lora(encoder, names, "lora_te1_")
        tensors |= loras.kohya_lora(tiny.transformer, KOHYA_FLUX, "lora_unet_")
    file = loras.write(tmp_path / "a.safetensors", tensors)
    ours = {"text_encoder": copy.deepcopy(encoder), "transformer": copy.deepcopy(tiny.transformer)}
    loras.wear(loras.wardrobe(), ours, {"it": file}, it=0.6)
    inputs = {"input_ids": torch.tensor([[0, 5, 9, 11, 1]])}
    tiny.load_lora_weights(tmp_path, weight_name="a.safetensors", adapter_name="it")
    tiny.set_adapters(["it"], [0.6])
    dressed = output(ours["text_encoder"], inputs)
    assert_close(dressed, output(encoder, inputs))


# Stable Diffusion


def sd15_pipe(unet: Any) -> Any:
    """Enough of a pipeline to load LoRAs into."""
    return StableDiffusionPipeline(
        unet=unet, text_encoder=loras.clip(), vae=None, tokenizer=None, scheduler=None,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def test_sd15_in_kohyas_layout_with_convolutions(tmp_path: Path):
    unet = loras.unet()
    paths = [path for path in loras.attention_paths(unet) if "up_blocks" in path]
    paths += ["mid_block.resnets.0.conv1", "down_blocks.0.resnets.1.conv2", "conv_in"]
    paths += ["down_blocks.0.attentions.0.proj_in", "down_blocks.0.downsamplers.0.conv"]
    paths += ["down_blocks.0.resnets.0.time_emb_proj", "up_blocks.0.resnets.0.conv_shortcut"]
    tensors = loras.kohya_lora(unet, {path: path for path in paths}, "lora_unet_", alpha=1.0)
    file = loras.write(tmp_path / "a.safetensors", tensors)
    inputs = loras.unet_inputs(chance(4))
    dressed = as_dressed({"unet": copy.deepcopy(unet)}, file, inputs)
    expected = by_diffusers(sd15_pipe(unet), unet, tmp_path / "a.safetensors", inputs)
    assert_close(dressed, expected)


@pytest.mark.parametrize("ending", ["processor.{}_lora.{}.weight", "{}.lora.{}.weight"])
def test_sd15_in_older_layouts_of_diffusers(tmp_path: Path, ending: str):
    unet, by, tensors = loras.unet(), chance(1), {}
    for path in loras.attention_paths(unet):
        down, up = loras.lora(unet.get_submodule(path), by)
        block, _, layer = path.partition(".to_")
        layer = "to_" + layer
        if "processor" in ending:
            layer = layer.removesuffix(".0")
        for end, factor in (("down", down), ("up", up)):
            tensors[f"unet.{block}.{ending.format(layer, end)}"] = factor
    file = loras.write(tmp_path / "a.safetensors", tensors)
    inputs = loras.unet_inputs(chance(4))
    dressed = as_dressed({"unet": copy.deepcopy(unet)}, file, inputs)
    expected = by_diffusers(sd15_pipe(unet), unet, tmp_path / "a.safetensors", inputs)
    assert_close(dressed, expected)


def test_sdxl_in_kohyas_layout_with_its_authors_names(tmp_path: Path):
    unet = loras.sdxl_unet()
    names = {
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": (
            "input_blocks.4.1.transformer_blocks.0.attn2.to_k"
        ),
        "down_blocks.1.resnets.1.conv1": "input_blocks.5.0.in_layers.2",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
        "mid_block.attentions.0.proj_in": "middle_block.1.proj_in",
        "mid_block.resnets.1.conv2": "middle_block.2.out_layers.3",
        "up_blocks.0.attentions.2.transformer_blocks.1.ff.net.0.proj": (
            "output_blocks.2.1.transformer_blocks.1.ff.net.0.proj"
        ),
        "up_blocks.1.upsamplers.0.conv": "output_blocks.5.2.conv",
        "up_blocks.2.resnets.0.conv_shortcut": "output_blocks.6.0.skip_connection",
        "up_blocks.2.resnets.0.time_emb_proj": "output_blocks.6.0.emb_layers.1",
        "time_embedding.linear_1": "time_embed.0",
        "add_embedding.linear_2": "label_emb.0.2",
    }
    tensors = loras.kohya_lora(unet, names, "lora_unet_")
    file = loras.write(tmp_path / "a.safetensors", tensors)
    inputs = loras.sdxl_inputs(chance(4))
    dressed = as_dressed({"unet": copy.deepcopy(unet)}, file, inputs)
    state, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(
        dict(tensors), unet_config=unet.config
    )
    StableDiffusionXLPipeline.load_lora_into_unet(state, network_alphas=alphas, unet=unet)
    assert_close(dressed, output(unet, inputs))


# LyCORIS, with peft's own layers as the measure

LOHA = {"r": 3, "alpha": 3, "init_weights": False}
LINEAR = ["to_q", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
CONVOLUTIONS = ["conv1", "conv_in", "proj_in", "conv_shortcut"]


@pytest.mark.parametrize(
    "config",
    [
        LoHaConfig(target_modules=LINEAR, **LOHA),
        LoHaConfig(target_modules=CONVOLUTIONS, **LOHA),
        LoHaConfig(target_modules=CONVOLUTIONS, use_effective_conv2d=True, **LOHA),
        LoKrConfig(target_modules=LINEAR, **LOHA),
        LoKrConfig(target_modules=LINEAR, decompose_both=True, **(LOHA | {"r": 1, "alpha": 1})),
        LoKrConfig(target_modules=LINEAR, decompose_factor=4, **(LOHA | {"r": 99, "alpha": 99})),
        LoKrConfig(target_modules=CONVOLUTIONS, **(LOHA | {"r": 1, "alpha": 1})),
        LoKrConfig(
            target_modules=CONVOLUTIONS,
            use_effective_conv2d=True,
            **(LOHA | {"r": 1, "alpha": 1}),
        ),
    ],
    ids=[
        "loha", "loha conv", "loha conv tucker", "lokr", "lokr both", "lokr whole",
        "lokr conv", "lokr conv tucker",
    ],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["peft", "lycoris"])
def test_loha_and_lokr(tmp_path: Path, config: LycorisConfig, layout: str):
    unet = loras.unet()
    ours = copy.deepcopy(unet)
    inject_adapter_in_model(config, unet)
    by = chance(6)
    state = {
        name: randn(*tensor.shape, by=by, scale=0.6)
        for name, tensor in get_peft_model_state_dict(unet).items()
    }
    unet.load_state_dict(
        {_loaded_name(name): tensor for name, tensor in state.items()}, strict=False
    )
    if layout == "lycoris":
        state = _as_lycoris(state, config.r)
    else:
        state = {f"unet.{name}": tensor for name, tensor in state.items()}
    file = loras.write(tmp_path / "a.safetensors", state)
    inputs = loras.unet_inputs(chance(4))
    dressed = as_dressed({"unet": ours}, file, inputs)
    assert_close(dressed, output(unet, inputs))


def _loaded_name(name: str) -> str:
    """peft leaves the adapter's name out of files, but has it in memory."""
    return f"{name}.default"


def _as_lycoris(state: loras.Tensors, rank: int) -> loras.Tensors:
    """LyCORIS's layout: underscores, and a scale, which is 1 here as there."""
    tensors = {}
    for name, tensor in state.items():
        layer, _, factor = name.rpartition(".")
        key = "lora_unet_" + layer.replace(".", "_")
        tensors[f"{key}.{factor}"] = tensor
        tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    return tensors


def test_whole_changes_of_weights_and_biases(tmp_path: Path):
    unet, by = loras.unet(), chance(3)
    layer = unet.get_submodule("mid_block.resnets.0.conv1")
    change, bias = randn(*layer.weight.shape, by=by), randn(*layer.bias.shape, by=by)
    norm = unet.get_submodule("mid_block.resnets.0.norm1")
    gain = randn(*norm.weight.shape, by=by)
    file = loras.write(
        tmp_path / "a.safetensors",
        {
            "lora_unet_mid_block_resnets_0_conv1.diff": change,
            "lora_unet_mid_block_resnets_0_conv1.diff_b": bias,
            "lora_unet_mid_block_resnets_0_norm1.w_norm": gain,
        },
    )
    before = [layer.weight.clone(), layer.bias.clone(), norm.weight.clone()]
    loras.wear(loras.wardrobe(), {"unet": unet}, {"it": file}, it=-0.5)
    for old, new, added in zip(
        before, (layer.weight, layer.bias, norm.weight), (change, bias, gain), strict=True
    ):
        assert_close(new, old - 0.5 * added)
