"""A Stable Diffusion model's components, from a diffusers folder or from one checkpoint file.

A checkpoint is one .safetensors file in the key layout of the original authors (ldm for 1.5,
generative-models for XL, sd3-ref for 3), as model sites offer them. Such a file says nothing about
its networks' configurations and has no tokenizer. Both are taken from folders of diffusers' layout
beside it; else the configurations from `configs/`, which ships with GenServe, and the tokenizers
from the model that config.yaml names as its `base`. Nothing is fetched from the network, no pickle
is read, and a safety checker is not loaded.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    SingleFileComponentError,
    create_diffusers_clip_model_from_ldm,
    create_diffusers_t5_model_from_checkpoint,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import T5EncoderModel

from genserve.pipelines.base import BrokenModel
from genserve.pipelines.placement import Placement

SHIPPED = Path(__file__).with_name("configs")


@dataclass(frozen=True, slots=True)
class Layout:
    """What a family's models are made of.

    `networks` and `tokenizers`: component → class; `large` networks are quantised; `optional` ones
    may be missing, with their tokenizers. `marks` are keys that tell the family's checkpoint files.
    """

    family: str
    networks: Mapping[str, Any]
    tokenizers: Mapping[str, Any]
    marks: tuple[str, ...]
    large: frozenset[str]
    optional: frozenset[str] = frozenset()


def load(
    folder: Path, base: Path | None, placement: Mapping[str, Placement], layout: Layout
) -> dict[str, Any]:
    """The components by diffusers' names; `scheduler` is its configuration, a missing one None.

    `base` lends a checkpoint file its tokenizers. `placement` says how each network is kept; those
    that it does not name are not read. Raises `BrokenModel`, or what the libraries raise.
    """
    if (folder / "model_index.json").is_file():
        return _from_folder(folder, placement, layout)
    return _from_checkpoint(_checkpoint_in(folder), base, placement, layout)


def _from_folder(
    folder: Path, placement: Mapping[str, Placement], layout: Layout
) -> dict[str, Any]:
    components: dict[str, Any] = {"scheduler": _scheduler(folder / "scheduler")}
    for name in placement:
        components[name] = None
        if (folder / name).is_dir() or name not in layout.optional:
            network, part = layout.networks[name], _existing(folder / name)
            components[name] = placement[name].read(network, part, large=name in layout.large)
    for name, tokenizer in layout.tokenizers.items():
        components[name] = None
        if components[_encoder_of(name)] is not None:
            part = _existing(folder / name)
            components[name] = tokenizer.from_pretrained(part, local_files_only=True)
    return components


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise BrokenModel(f"{folder.parent.name}/{folder.name} is missing")
    return folder


def _encoder_of(tokenizer: str) -> str:
    return tokenizer.replace("tokenizer", "text_encoder")


def read_json(file: Path) -> dict[str, Any]:
    """A component's configuration. Raises `BrokenModel`."""
    shown = f"{file.parent.parent.name}/{file.parent.name}/{file.name}"
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
    except OSError:
        raise BrokenModel(f"{shown} is missing") from None
    except ValueError:
        raise BrokenModel(f"{shown} is not JSON") from None
    return content


def _scheduler(folder: Path) -> dict[str, Any]:
    """What the model's scheduler says of how it was trained."""
    content = read_json(folder / "scheduler_config.json")
    return {name: value for name, value in content.items() if not name.startswith("_")}


def _checkpoint_in(folder: Path) -> "_Checkpoint":
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise BrokenModel(
            f"{folder.name} holds neither a model_index.json nor one single .safetensors file"
        )
    return _Checkpoint(files[0])


@dataclass(frozen=True)
class _Checkpoint:
    file: Path

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All that is in it, by the original authors' names."""
        try:
            tensors: dict[str, torch.Tensor] = load_file(self.file)
        except SafetensorError:
            raise BrokenModel(f"{self.file.name} is not a whole safetensors file") from None
        return tensors


def _from_checkpoint(
    checkpoint: _Checkpoint, base: Path | None, placement: Mapping[str, Placement], layout: Layout
) -> dict[str, Any]:
    file, beside = checkpoint.file, checkpoint.file.parent
    if not all(mark in checkpoint.tensors for mark in layout.marks):
        raise BrokenModel(f"{file.name} is no checkpoint of a {layout.family} model")
    scheduler = _scheduler(config_of(beside, layout, "scheduler"))
    components: dict[str, Any] = {"scheduler": scheduler | _told(checkpoint.tensors)}
    for name in placement:
        if name in layout.optional and not _has(checkpoint.tensors, name):
            components[name] = None
            continue
        make = _maker(checkpoint, name, placement[name].dtype, layout)
        components[name] = placement[name].make(file, name, make, large=name in layout.large)
    lenders = [beside] if base is None else [beside, base]
    for name, tokenizer in layout.tokenizers.items():
        missing = components[_encoder_of(name)] is None
        components[name] = None if missing else _tokenizer(lenders, name, tokenizer)
    return components


def config_of(folder: Path, layout: Layout, name: str) -> Path:
    """The folder with a component's configuration: the model's own, else the one that ships."""
    return folder / name if (folder / name).is_dir() else SHIPPED / layout.family / name


def _told(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What finetunes of SDXL that predict velocity say by a tensor's name alone."""
    told: dict[str, Any] = {}
    if "v_pred" in tensors:
        told["prediction_type"] = "v_prediction"
    if "ztsnr" in tensors:
        told["rescale_betas_zero_snr"] = True
    return told


_ENCODERS = {
    "text_encoder": "text_encoders.clip_l.",
    "text_encoder_2": "text_encoders.clip_g.",
    "text_encoder_3": "text_encoders.t5xxl.",
}
"""Where SD3's checkpoints keep text encoders, if at all."""


def _has(tensors: Mapping[str, torch.Tensor], name: str) -> bool:
    return any(key.startswith(_ENCODERS[name]) for key in tensors)


def _maker(
    checkpoint: _Checkpoint, name: str, dtype: torch.dtype, layout: Layout
) -> Callable[[], Any]:
    """What reads one network out of the checkpoint."""
    file = checkpoint.file

    def make() -> Any:
        try:
            read = _read(checkpoint, name, dtype, layout)
        except (KeyError, NotImplementedError, SingleFileComponentError):
            raise BrokenModel(f"{file.name} lacks weights of {name}") from None
        except ValueError:  # of other shapes than its configuration says
            raise BrokenModel(f"{file.name}: its {name} is of another make") from None
        for key, weight in read.named_parameters():
            if weight.is_meta:  # the libraries leave what the file lacks without a value
                raise BrokenModel(
                    f"{file.name} lacks weights of {name}, such as {key}; download it again"
                )
            weight.data = weight.data.contiguous()  # cut out of joined ones, they may not be
        return read

    return make


def _read(checkpoint: _Checkpoint, name: str, dtype: torch.dtype, layout: Layout) -> Any:
    """One network by the libraries' converters, with their exceptions."""
    network, tensors, file = layout.networks[name], checkpoint.tensors, checkpoint.file
    config = str(_sized(config_of(file.parent, layout, name), tensors))
    if network is T5EncoderModel:
        return _t5(tensors, config, dtype, file)
    if name.startswith("text_encoder"):
        return create_diffusers_clip_model_from_ldm(
            network, tensors, config=config, torch_dtype=dtype, local_files_only=True
        )
    changes = {"in_channels": _unet_channels(tensors)} if name == "unet" else {}
    return network.from_single_file(
        dict(tensors), config=config, local_files_only=True, dtype=dtype, **changes
    )


def _unet_channels(tensors: Mapping[str, torch.Tensor]) -> int:
    """4, or 9 for a UNet that was trained to fill: latents, mask and the masked picture."""
    return int(tensors["model.diffusion_model.input_blocks.0.0.weight"].shape[1])


def _sized(folder: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Of the configurations of SD3's transformer that ship, the one that fits the checkpoint."""
    if (folder / "config.json").is_file():
        return folder
    layers = {key.split(".")[3] for key in tensors if ".joint_blocks." in key}
    if len(layers) > 24:
        return folder / "sd3.5-large"
    dual = any(".x_block.attn2." in key for key in tensors)
    return folder / ("sd3.5-medium" if dual else "sd3-medium")


def _t5(tensors: dict[str, torch.Tensor], config: str, dtype: torch.dtype, file: Path) -> Any:
    if any(key.startswith("text_encoders.t5xxl.") and "scale" in key for key in tensors):
        raise BrokenModel(
            f"{file.name} holds T5 in scaled fp8, which cannot be read; take a file without it"
        )
    read = create_diffusers_t5_model_from_checkpoint(
        T5EncoderModel, tensors, config=config, torch_dtype=dtype, local_files_only=True
    )
    read.set_input_embeddings(read.get_input_embeddings())  # two names of one, and one is written
    return read.eval()  # the library leaves it as for training, with dropout


def _tokenizer(folders: Sequence[Path], name: str, tokenizer: Any) -> Any:
    for folder in folders:
        if (folder / name).is_dir():
            return tokenizer.from_pretrained(folder / name, local_files_only=True)
    raise BrokenModel(
        f"{folders[0].name}/{name} is missing: a checkpoint file has no tokenizer; copy that folder"
        " from the model's page, or name a model that has it as `base` in config.yaml"
    )
