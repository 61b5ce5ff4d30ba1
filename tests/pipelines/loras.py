"""LoRA files for tests, in every layout that is in use, and small networks to wear them."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from genserve.domain.lora import LoraSource
from genserve.domain.request import LoraRef
from genserve.pipelines.wardrobe import Wardrobe

Tensors = dict[str, torch.Tensor]
RANK = 4


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, by: torch.Generator, scale: float = 0.1) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=by)


def source_of(path: Path) -> LoraSource:
    stat = path.stat()
    return LoraSource(
        path=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        size_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        inode=stat.st_ino,
    )


def write(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> LoraSource:
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, metadata=dict(metadata or {}))
    return source_of(path)


def wardrobe(device: str = "cpu", **changes: int) -> Wardrobe:
    return Wardrobe(device, **({"files_bytes": 2**30} | changes))


def wear(
    clothes: Wardrobe, parts: Mapping[str, Any], files: Mapping[str, LoraSource], **weights: Any
) -> Any:
    """Wear files at a weight each; a pair is (weight, text_weight)."""
    asked = []
    for name, weight in weights.items():
        both = weight if isinstance(weight, tuple) else (weight, None)
        asked.append(LoraRef(name=name, weight=both[0], text_weight=both[1]))
    return clothes.wear(parts, asked, files)


def bits(network: torch.nn.Module) -> str:
    """What tells whether a single bit of the weights is another."""
    digest = hashlib.sha256()
    for name, weight in network.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# LoRA by layer


def lora(layer: Any, by: torch.Generator, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
    """Down and up of a linear layer or convolution."""
    out, *inner = layer.weight.shape
    down = randn(rank, *inner, by=by)
    up = randn(out, rank, *([1] * (len(inner) - 1)), by=by)
    return down, up


def diffusers_lora(
    network: torch.nn.Module, paths: Iterable[str], prefix: str, seed: int = 0
) -> Tensors:
    """diffusers' and peft's layout."""
    by = chance(seed)
    tensors: Tensors = {}
    for path in paths:
        down, up = lora(network.get_submodule(path), by)
        tensors[f"{prefix}{path}.lora_A.weight"] = down
        tensors[f"{prefix}{path}.lora_B.weight"] = up
    return tensors


def kohya_lora(
    network: torch.nn.Module,
    names: Mapping[str, str],
    prefix: str,
    *,
    alpha: float | None = 2.0,
    seed: int = 0,
) -> Tensors:
    """kohya's layout; `names` are the file's names by the network's paths."""
    by = chance(seed)
    tensors: Tensors = {}
    for path, name in names.items():
        down, up = lora(network.get_submodule(path), by)
        key = prefix + name.replace(".", "_")
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
    return tensors


def attention_paths(network: torch.nn.Module) -> list[str]:
    ends = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")
    return [path for path, _ in network.named_modules() if path.endswith(ends)]


# Networks


def seeded(network: torch.nn.Module, seed: int = 7) -> Any:
    """With random weights that are the same every time, and none of them zero."""
    by = chance(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=by))
    return network.eval()


def flux() -> Any:
    config = {
        "patch_size": 1,
        "in_channels": 16,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "pooled_projection_dim": 20,
        "guidance_embeds": True,
        "axes_dims_rope": (4, 6, 6),
    }
    return seeded(FluxTransformer2DModel(**config))


def flux_inputs(by: torch.Generator) -> dict[str, Any]:
    return {
        "hidden_states": randn(1, 6, 16, by=by, scale=1),
        "encoder_hidden_states": randn(1, 5, 24, by=by, scale=1),
        "pooled_projections": randn(1, 20, by=by, scale=1),
        "timestep": torch.tensor([0.5]),
        "guidance": torch.tensor([3.5]),
        "img_ids": torch.zeros(6, 3),
        "txt_ids": torch.zeros(5, 3),
    }


def sd3() -> Any:
    config = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 16,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 16,
        "out_channels": 4,
        "pos_embed_max_size": 8,
        "dual_attention_layers": (0,),
    }
    return seeded(SD3Transformer2DModel(**config))


def unet(text_width: int = 16, **changes: Any) -> Any:
    """SD 1.5's architecture, small."""
    config: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 2,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
        "cross_attention_dim": text_width,
    }
    return seeded(UNet2DConditionModel(**(config | changes)))


def sdxl_unet() -> Any:
    """SDXL's architecture, small: three levels, several transformer blocks in each."""
    return unet(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
    )


def unet_inputs(by: torch.Generator) -> dict[str, Any]:
    return {
        "sample": randn(1, 4, 8, 8, by=by, scale=1),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": randn(1, 5, 16, by=by, scale=1),
    }


def sdxl_inputs(by: torch.Generator) -> dict[str, Any]:
    added = {"text_embeds": randn(1, 16, by=by), "time_ids": torch.ones(1, 6)}
    return unet_inputs(by) | {"added_cond_kwargs": added}


def clip(*, projection: bool = False) -> Any:
    config = CLIPTextConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
    )
    return seeded((CLIPTextModelWithProjection if projection else CLIPTextModel)(config))


TOKENS = torch.tensor([[1, 5, 7, 9, 2]])


def output(network: torch.nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        made: torch.Tensor = network(**inputs, return_dict=False)[0]
    return made
