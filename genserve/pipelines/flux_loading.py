"""What a Flux model's folder holds, and its networks in memory.

Which of Flux's models a folder is, is read from what it says itself: the pipeline's class in
model_index.json, and how many channels its transformer takes. FLUX packs 2 x 2 latent pixels of
16 channels into 64. FLUX.1 Fill takes 384: the picture's 64, 64 of the masked picture and 256 of
the mask (64 pixels' worth each of 2 x 2 latent pixels). FLUX.1 Depth and Canny take 128: the
picture's 64 and 64 of the control picture.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxTransformer2DModel,
)
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    SiglipImageProcessorPil,
    SiglipVisionModel,
    T5EncoderModel,
    T5TokenizerFast,
)

from genserve.domain.model import ModelSpec
from genserve.pipelines import control_lora, preview
from genserve.pipelines.base import BrokenModel
from genserve.pipelines.controlnets import ControlNets
from genserve.pipelines.placement import Placement

_REDUX = "FluxPriorReduxPipeline"
_PACKED = 4
"""FLUX draws 2 x 2 latent pixels at once."""


class Kind(StrEnum):
    """What a Flux transformer was trained for."""

    BASE = "base"
    FILL = "fill"
    CONTROL = "control"
    KONTEXT = "kontext"


@dataclass(frozen=True, slots=True)
class Redux:
    """What turns a reference picture into words that FLUX understands."""

    image_encoder: Any
    feature_extractor: Any
    image_embedder: Any


@dataclass(frozen=True, slots=True)
class FluxParts:
    """A Flux model's networks, and what goes with them."""

    kind: Kind
    scheduler: Any
    tokenizer: Any
    tokenizer_2: Any
    text_encoder: Any
    text_encoder_2: Any
    transformer: Any
    vae: Any
    controlnets: ControlNets
    redux: Redux | None = None
    native_pixels: int | None = None
    """Of a model that was trained on small pictures."""

    def components(self) -> dict[str, Any]:
        """What every Flux pipeline of diffusers is made of."""
        names = ("scheduler", "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
        return {name: getattr(self, name) for name in (*names, "transformer", "vae")}

    def networks(self) -> dict[str, Any]:
        """The networks alone, by diffusers' names, with the ControlNets that were read."""
        names = ("text_encoder", "text_encoder_2", "transformer", "vae")
        found = {name: getattr(self, name) for name in names}
        found |= self.controlnets.networks()
        if self.redux is not None:
            found["image_encoder"] = self.redux.image_encoder
            found["image_embedder"] = self.redux.image_embedder
        return found


def load(spec: ModelSpec, placement: Placement) -> FluxParts:
    """Read the model: safetensors (or GGUF) only, nothing from the network, no code from it.

    What its folder lacks is its base's. Raises `BrokenModel`, or what the libraries raise.
    """
    folders = _Folders.of(spec)
    transformer = folders.transformer(placement)
    if spec.vae is not None and spec.vae.is_file():
        vae = placement.read_file(AutoencoderKL, spec.vae, folders.part("vae"))
    else:
        vae = placement.read(AutoencoderKL, spec.vae or folders.part("vae"))
    if vae.config.shift_factor is None:
        raise BrokenModel("its VAE is not one of Flux's: its config.json has no shift_factor")
    preview.use_decoder(vae, spec, placement.read)
    kind = _kind(folders.class_name, transformer, vae)
    if kind is not Kind.BASE and (spec.controls or folders.redux is not None):
        raise BrokenModel("ControlNets and Redux add to a base model, and its base is none")
    return FluxParts(
        kind=kind,
        scheduler=folders.small(FlowMatchEulerDiscreteScheduler, "scheduler"),
        tokenizer=folders.small(CLIPTokenizer, "tokenizer"),
        tokenizer_2=folders.small(T5TokenizerFast, "tokenizer_2"),
        text_encoder=placement.read(CLIPTextModel, folders.part("text_encoder")),
        text_encoder_2=placement.read(T5EncoderModel, folders.part("text_encoder_2"), large=True),
        transformer=transformer,
        vae=vae,
        controlnets=ControlNets(
            spec.controls, lambda folder: placement.read(FluxControlNetModel, folder, large=True)
        ),
        redux=_redux(folders, placement) if folders.redux is not None else None,
        native_pixels=spec.native_pixels,
    )


@dataclass(frozen=True, slots=True)
class _Folders:
    """Which folder lends what: the model's own first, then its base."""

    searched: tuple[Path, ...]
    class_name: str
    redux: Path | None = None
    file: Path | None = None
    """A transformer as a single file."""

    @classmethod
    def of(cls, spec: ModelSpec) -> "_Folders":
        """Raises `BrokenModel` when the folder is none that Flux models have."""
        if spec.base is None:
            class_name = _class_name(spec.folder)
            if class_name == _REDUX:
                raise BrokenModel("it adds to a base model; name that as `base` in config.yaml")
            return cls((spec.folder,), class_name)
        if (spec.folder / "model_index.json").is_file():
            class_name = _class_name(spec.folder)
            searched = (spec.folder, spec.base)
            if class_name == _REDUX:
                return cls(searched, _class_name(spec.base), redux=spec.folder)
            return cls(searched, class_name)
        class_name = _class_name(spec.base)
        if spec.controls:
            return cls((spec.base,), class_name)
        files = [*spec.folder.glob("*.gguf"), *spec.folder.glob("*.safetensors")]
        if len(files) != 1:
            raise BrokenModel(
                f"{spec.folder.name} must hold one transformer, as .gguf or .safetensors"
            )
        return cls((spec.base,), class_name, file=files[0])

    def part(self, name: str) -> Path:
        """A component's folder. Raises `BrokenModel` when it is missing."""
        for folder in self.searched:
            if (folder / name).is_dir():
                return folder / name
        places = " or ".join(f"{folder.name}/{name}" for folder in self.searched)
        raise BrokenModel(f"{places} is missing")

    def small(self, class_: Any, name: str) -> Any:
        """A component without weights. Raises as `part`."""
        return class_.from_pretrained(self.part(name), local_files_only=True)

    def transformer(self, placement: Placement) -> Any:
        """The transformer, by itself in a file or in a folder. Raises as `part`."""
        folder = self.part("transformer")
        if self.file is not None and control_lora.is_control_lora(self.file):
            file, dtype = self.file, placement.dtype
            make = partial(control_lora.read, folder, file, dtype)
            return placement.make(file, f"on {folder}", make, large=True)
        if self.file is not None:
            return placement.read_file(FluxTransformer2DModel, self.file, folder)
        return placement.read(FluxTransformer2DModel, folder, large=True)


def _class_name(folder: Path) -> str:
    try:
        index = json.loads((folder / "model_index.json").read_bytes())
    except OSError:
        raise BrokenModel(f"{folder.name}/model_index.json is missing") from None
    except ValueError:
        raise BrokenModel(f"{folder.name}/model_index.json is not JSON") from None
    return str(index.get("_class_name"))


def _kind(class_name: str, transformer: Any, vae: Any) -> Kind:
    taken = transformer.config.in_channels
    latent = _PACKED * vae.config.latent_channels
    mask = _PACKED * (2 ** (len(vae.config.block_out_channels) - 1)) ** 2
    kinds = {
        latent: Kind.KONTEXT if class_name == "FluxKontextPipeline" else Kind.BASE,
        2 * latent: Kind.CONTROL,
        2 * latent + mask: Kind.FILL,
    }
    if taken not in kinds:
        raise BrokenModel(
            f"its transformer takes {taken} channels; Flux models with this VAE take"
            f" {latent}, {2 * latent} (control) or {2 * latent + mask} (fill)"
        )
    return kinds[taken]


def _redux(folders: _Folders, placement: Placement) -> Redux:
    return Redux(
        image_encoder=placement.read(SiglipVisionModel, folders.part("image_encoder")),
        # By Pillow: the other one needs torchvision, and sees other pixels.
        feature_extractor=folders.small(SiglipImageProcessorPil, "feature_extractor"),
        image_embedder=placement.read(ReduxImageEncoder, folders.part("image_embedder")),
    )
