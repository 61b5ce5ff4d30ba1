"""How much memory models will take, guessed by their files' headers before they are read."""

import json
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

from genserve.domain.model import ModelSpec
from genserve.pipelines import weight_files
from genserve.pipelines.base import DeviceKind
from genserve.pipelines.shelf import Shelf

_DTYPE_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
_AUTO_BYTES: dict[DeviceKind, float] = {"cuda": 2.0, "cpu": 4.0}
_QUANTISED_BYTES = {"fp8": 1.0, "nf4": 0.5}
_LARGE = frozenset({"transformer", "unet", "text_encoder_2", "text_encoder_3"})
"""The networks that are quantised, in most families, and in the others the largest of them."""
_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
_MAX_HEADER_BYTES = 16 * 2**20


def weights_bytes(spec: ModelSpec, shelf: Shelf, device: DeviceKind = "cpu") -> int:
    """What the networks of a model that are yet to be read will take, about.

    Without its ControlNets, which are read when they are asked for.
    """
    return missing_bytes(sources(spec), spec, shelf, device)


def missing_bytes(
    sources: Iterable[Path], spec: ModelSpec, shelf: Shelf, device: DeviceKind
) -> int:
    """The same of these folders and files alone, kept as the model is."""
    missing = (source for source in sources if not shelf.holds(source))
    return sum(
        _expected_bytes(file, _number_bytes(spec, source, device))
        for source in missing
        for file in files_of(source)
    )


def sources(spec: ModelSpec) -> list[Path]:
    """The folders and files of the networks that a model is loaded with, each network's once."""
    whole = (spec.folder / "model_index.json").is_file()
    networks: dict[str, Path] = {}
    for folder in _lenders(spec, whole=whole):
        networks |= {part.name: part for part in sorted(folder.iterdir()) if _is_read(part, spec)}
    if spec.vae is not None:
        networks["vae"] = spec.vae
    alone = [spec.folder] if spec.folder.is_file() else []
    if not whole and spec.folder.is_dir() and spec.folder not in spec.controls.values():
        alone = weight_files.read_of(spec.folder)  # they are no network's second copy then
    if alone and spec.base is not None:  # in place of the base's own
        networks = {name: part for name, part in networks.items() if name not in _DRAWS}
    return [*networks.values(), *alone]


_DRAWS = frozenset({"transformer", "unet"})
_IN_ONE_PLACE = {
    "sd15": frozenset({"unet", "vae", "text_encoder"}),
    "sdxl": frozenset({"unet", "vae", "text_encoder", "text_encoder_2"}),
    "sd3": frozenset({"transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"}),
}
"""The families of Stable Diffusion: a checkpoint file is all of a model, its base lends tokenizers
alone. As their layouts say, which cannot be asked without torch."""
_REDUX = frozenset({"image_encoder", "image_embedder"})
_NETWORKS = {
    **_IN_ONE_PLACE,
    "flux": frozenset({"transformer", "vae", "text_encoder", "text_encoder_2"}),
}
"""Other folders of a model are left where they lie: safety checkers, other models' adapters. Of a
family that is not named, all are read."""


def _lenders(spec: ModelSpec, *, whole: bool) -> list[Path]:
    """The folders whose sub-folders may be the model's networks; the last one has its way."""
    in_one_place = spec.family in _IN_ONE_PLACE
    if in_one_place and not whole:
        return []
    folders = [spec.folder] if in_one_place else [spec.base, spec.folder]
    return [folder for folder in folders if folder is not None and folder.is_dir()]


def _is_read(part: Path, spec: ModelSpec) -> bool:
    if not part.is_dir():
        return False
    is_redux = spec.base is not None and part.parent == spec.folder
    read = _NETWORKS.get(spec.family)
    return read is None or part.name in read or (is_redux and part.name in _REDUX)


def files_of(source: Path) -> list[Path]:
    """The files with the weights of a network's folder that are read, or the one file it is."""
    return [source] if source.is_file() else weight_files.read_of(source)


def _number_bytes(spec: ModelSpec, source: Path, device: DeviceKind) -> float:
    """What one number will take that is a float in the file."""
    if source.name in _LARGE or source.is_file():
        quantised = _QUANTISED_BYTES.get(spec.quantization)
        if quantised is not None:
            return quantised
    return _DTYPE_BYTES.get(spec.dtype, _AUTO_BYTES[device])


def _expected_bytes(file: Path, number_bytes: float) -> int:
    """Floats are read as others; GGUF, and what is no safetensors file, as it is."""
    tensors = _header(file) if file.suffix == ".safetensors" else None
    if tensors is None:
        return file.stat().st_size
    total = 0.0
    for name, tensor in tensors.items():
        if name != "__metadata__":
            begin, end = tensor["data_offsets"]
            is_float = tensor["dtype"] in _FLOATS
            total += prod(tensor["shape"]) * number_bytes if is_float else end - begin
    return round(total)


def _header(file: Path) -> dict[str, dict[str, Any]] | None:
    """Its checking is the scan's work: here a file that is broken is only of some size."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            return None
        try:
            content = json.loads(opened.read(length))
        except ValueError:
            return None
    return content if isinstance(content, dict) else None
