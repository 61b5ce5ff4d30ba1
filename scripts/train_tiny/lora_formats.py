"""LoRA files as other tools write them: diffusers' and peft's, kohya's, and LyCORIS's LoHa."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import FluxPipeline
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from .adapters import Hadamard, adapters_of, low_ranks_of

# Where diffusers looks in a folder.
DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"


def _half(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float16).contiguous()


def peft_tensors(worn: nn.ModuleDict, prefix: str = "") -> dict[str, Tensor]:
    """By peft's names. Raises `TypeError` for anything but LoRA."""
    tensors = {}
    for name, adapter in low_ranks_of(worn).items():
        tensors[f"{prefix}{name}.lora_A.weight"] = _half(adapter.down)
        tensors[f"{prefix}{name}.lora_B.weight"] = _half(adapter.up)
    return tensors


def save_control_lora(worn: nn.ModuleDict, folder: Path) -> None:
    """As diffusers' own training of Control-LoRAs saves them; `load_lora_weights(folder)` reads it.

    Ranks differ between layers and stand in the shapes; every scale is 1.
    """
    FluxPipeline.save_lora_weights(folder, transformer_lora_layers=peft_tensors(worn))


def save_diffusers_lora(worn: nn.ModuleDict, path: Path) -> None:
    """Diffusers' layout, with peft's configuration in the metadata."""
    adapters = low_ranks_of(worn)
    rank = next(iter(adapters.values())).down.shape[0]
    config = LoraConfig(r=rank, lora_alpha=rank).to_dict()
    config["target_modules"] = sorted(adapters)  # peft has a set there, in no fixed order
    FluxPipeline.save_lora_weights(
        path.parent,
        transformer_lora_layers=peft_tensors(worn),
        transformer_lora_adapter_metadata=config,
        weight_name=path.name,
    )


def save_kohya_lora(worn: nn.ModuleDict, path: Path, metadata: Mapping[str, str]) -> None:
    """The layout of kohya's sd-scripts for FLUX.1, whose layers have the authors' names."""
    tensors = {}
    for name, adapter in low_ranks_of(worn).items():
        layer = "lora_unet_" + name.replace(".", "_")
        tensors[f"{layer}.lora_down.weight"] = _half(adapter.down)
        tensors[f"{layer}.lora_up.weight"] = _half(adapter.up)
        # Alpha is the rank: the change is the product as it is.
        tensors[f"{layer}.alpha"] = torch.tensor(float(adapter.down.shape[0]), dtype=torch.float16)
    _save(tensors, path, metadata)


def save_loha(worn: nn.ModuleDict, path: Path, metadata: Mapping[str, str]) -> None:
    """LyCORIS's layout of a LoHa, by kohya's names."""
    tensors = {}
    for name, adapter in adapters_of(worn).items():
        if not isinstance(adapter, Hadamard):
            raise TypeError(f"{name} is no LoHa")
        layer = "lora_unet_" + name.replace(".", "_")
        for factor, tensor in adapter.named_parameters():
            tensors[f"{layer}.{factor}"] = _half(tensor)
        rank = float(adapter.hada_w1_b.shape[0])
        tensors[f"{layer}.alpha"] = torch.tensor(rank, dtype=torch.float16)
    _save(tensors, path, metadata)


def _save(tensors: dict[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt", **metadata})


def kohya_metadata(name: str, description: str, rank: int, algorithm: str = "") -> dict[str, str]:
    """What sd-scripts and model sites write into a file: the base, the rank, and what it is.

    No trigger words: the styles need none. No counted tags either: captions are made anew at every
    step, and readers would take the commonest of their words for triggers.
    """
    metadata = {
        "ss_base_model_version": "flux1",
        "ss_network_module": "lycoris.kohya" if algorithm else "networks.lora_flux",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_output_name": name,
        "modelspec.architecture": "flux-1-dev/lora",
        "modelspec.title": name,
        "modelspec.description": description,
    }
    if algorithm:
        metadata["ss_network_args"] = json.dumps({"algo": algorithm})
    return metadata
