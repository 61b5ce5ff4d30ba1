"""Small networks of transformers' own classes, as the preprocessors use them."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from genserve.domain.model import ModelSpec
from genserve.pipelines.base import BrokenModel, DeviceKind
from genserve.pipelines.shelf import Shelf

_DTYPES = {
    "auto": torch.float32,  # half the digits would show as steps in a depth map
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def take(
    cls: Any, folder: Path, spec: ModelSpec, device: DeviceKind, shelf: Shelf, user: object
) -> Any:
    """The network of that folder, on the device. Raises `BrokenModel`."""
    dtype = _DTYPES[spec.dtype]

    def read() -> Any:
        try:
            network, report = cls.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=dtype,
                output_loading_info=True,
            )
        except ValueError:  # its configuration is of another kind of model
            wanted = cls.__name__.removeprefix("AutoModelFor")
            raise BrokenModel(f"{folder.name} is no model for {wanted}") from None
        if report["missing_keys"]:  # the library would fill them with random numbers
            raise BrokenModel(f"{folder.name} lacks weights: {sorted(report['missing_keys'])[0]}")
        return network.to(device).eval()

    return shelf.take(user, folder, f"{device} {dtype}", read)


def processor(cls: Any, folder: Path) -> Any:
    """What brings pictures into the form that the folder's network wants. Raises `BrokenModel`."""
    if not (folder / "preprocessor_config.json").is_file():
        raise BrokenModel(f"{folder.name}/preprocessor_config.json is missing")
    return cls.from_pretrained(folder, local_files_only=True)


def pixels_for(network: Any, prepare: Any, image: Image.Image) -> torch.Tensor:
    """An RGB picture as the network takes it: 1 x 3 x height x width, on its device."""
    pixels: torch.Tensor = prepare(image, return_tensors="pt")["pixel_values"]
    weight = next(network.parameters())
    return pixels.to(weight.device, weight.dtype)
