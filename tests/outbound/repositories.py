"""Small repositories that look as real ones do: with much that nobody needs."""

import json
from collections.abc import Mapping
from typing import Any

from genserve.config_sources import HubSettings
from tests.outbound.hub_server import HubServer

UNWANTED = [
    ".gitattributes",
    "README.md",
    "flux1-dev.safetensors",
    "ae.safetensors",
    "dev_grid.jpg",
    "transformer/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae_decoder/config.json",
    "vae_decoder/model.onnx",
    "vae_1_0/config.json",
    "vae_1_0/diffusion_pytorch_model.safetensors",
]
INDEX = {
    "_class_name": "FluxPipeline",
    "_diffusers_version": "0.30.0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "image_encoder": [None, None],
}


def weights(seed: int, size: int = 3000, metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file of one tensor of `size` bytes."""
    return tensors({"a": (size // 2,)}, seed, metadata)


def tensors(
    shapes: dict[str, tuple[int, ...]], seed: int = 0, metadata: dict[str, str] | None = None
) -> bytes:
    """A safetensors file of tensors in 16 bits."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    reached = 0
    for name, shape in shapes.items():
        count = 1
        for length in shape:
            count *= length
        offsets = [reached, reached + 2 * count]
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": offsets}
        reached += 2 * count
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes((seed + i) % 251 for i in range(reached))


def pipeline(
    replaced: Mapping[str, bytes | None] | None = None, *, size: int = 3000
) -> dict[str, bytes]:
    """A whole model of `size` bytes for each of its three weights; `replaced` files by path."""
    shards = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    weight_map = {"a": shards[0], "b": shards[1]}
    files: dict[str, bytes] = {
        "model_index.json": json.dumps(INDEX).encode(),
        "genserve.json": b'{"native_pixels": 4096}',
        "scheduler/scheduler_config.json": b"{}",
        "tokenizer/tokenizer_config.json": b"{}",
        "tokenizer/vocab.json": b'{"a": 1}',
        "tokenizer/merges.txt": b"a b",
        "transformer/config.json": b"{}",
        f"transformer/{shards[0]}": weights(1, size),
        f"transformer/{shards[1]}": tensors({"b": (size // 2,)}, 2),
        "transformer/diffusion_pytorch_model.safetensors.index.json": json.dumps(
            {"weight_map": weight_map}
        ).encode(),
        "vae/config.json": b"{}",
        "vae/diffusion_pytorch_model.safetensors": weights(3, size),
    }
    files |= {path: weights(9) for path in UNWANTED}
    for path, content in (replaced or {}).items():
        if content is None:
            del files[path]
        else:
            files[path] = content
    return files


def wanted(files: dict[str, bytes]) -> dict[str, bytes]:
    """What of them a pull has to fetch."""
    return {path: content for path, content in files.items() if path not in UNWANTED}


def lora() -> bytes:
    """A LoRA for Flux."""
    block = "transformer.single_transformer_blocks.0.attn.to_q"
    return tensors({f"{block}.lora_A.weight": (4, 300), f"{block}.lora_B.weight": (300, 4)})


def settings(hub: HubServer, token: str | None = None, *, offline: bool = False) -> HubSettings:
    return HubSettings(endpoint=hub.url, token=token, offline=offline)
