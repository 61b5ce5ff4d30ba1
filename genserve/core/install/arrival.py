"""What came is looked at as the server will look at it, and only then moved to where that looks."""

import json
from pathlib import Path
from typing import Any, assert_never

from genserve.core.install.choice import ALONE, INDEX, Kind
from genserve.core.install.places import Became, Installed, Places
from genserve.core.install.staging import Staging
from genserve.errors import UnusableDownload
from genserve.store.lora_header import describe_lora
from genserve.store.safetensors_header import BadWeights, Header, read_header
from genserve.store.weights import ModelFolder, scan_model, scan_part, scan_transformer


def install(staging: Staging, kind: Kind, places: Places, notes: dict[str, Any]) -> Installed:
    """Put the staged files into their place. `notes` say where they came from.

    Raises `UnusableDownload`, and then nothing is left of it; `AlreadyInstalled`, `OSError`.
    """
    match kind:
        case Kind.PIPELINE:
            _check(staging, places, scan_model(staging.files))
            installed = _folder(staging, places, Became.MODEL, notes)
        case Kind.PART:
            _check(staging, places, scan_part(staging.files))
            installed = _folder(staging, places, Became.PART, notes)
        case Kind.SINGLE:
            installed = _single(staging, places, notes)
        case _:
            assert_never(kind)
    staging.remove()
    return installed


def _check(staging: Staging, places: Places, scanned: ModelFolder) -> None:
    if scanned.problem is not None or not scanned.present:
        staging.discard()
        problem = scanned.problem or "it is empty"
        raise UnusableDownload(name=places.name, problem=problem)


def _folder(staging: Staging, places: Places, became: Became, notes: dict[str, Any]) -> Installed:
    size, pipeline = _size(staging.files), _pipeline(staging.files)
    staging.note(notes)
    staging.install_folder(places.model, replace=places.replace)
    return Installed(became, places.model, size, pipeline)


def _single(staging: Staging, places: Places, notes: dict[str, Any]) -> Installed:
    [path] = [one for one in staging.files.iterdir() if one.suffix in ALONE]
    if path.suffix == ".gguf":
        _check(staging, places, scan_transformer(staging.files))
        return _folder(staging, places, Became.CHECKPOINT, notes)
    size = path.stat().st_size
    try:
        header = read_header(path)
    except BadWeights as bad:
        staging.discard()
        raise UnusableDownload(name=places.name, problem=f"it {bad.problem}") from None
    if not _is_lora(header):
        return _folder(staging, places, Became.CHECKPOINT, notes)
    staging.install_file(path.name, places.lora, replace=places.replace)
    return Installed(Became.LORA, places.lora, size)


def _is_lora(header: Header) -> bool:
    try:
        describe_lora("", header)
    except BadWeights:
        return False
    return True


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _pipeline(folder: Path) -> str | None:
    """The class that model_index.json names; it was scanned before."""
    index = folder / INDEX
    if not index.exists():
        return None
    return str(json.loads(index.read_bytes())["_class_name"])
