"""What lies in the folder of LoRAs, without loading any of it: see `weights` for the rules."""

import os
from dataclasses import replace
from pathlib import Path

from genserve.domain.lora import LoraSource
from genserve.store.file_hashes import FileHashes
from genserve.store.lora_header import LoraFile, describe_lora
from genserve.store.safetensors_header import BadWeights, read_header
from genserve.store.weights import PICKLES

__all__ = ["LoraFile", "scan_loras"]


def scan_loras(folder: Path, hashes: FileHashes) -> list[LoraFile]:
    """The LoRA files directly in a folder, by name. Reads headers, and new files for their hash."""
    if not folder.is_dir():
        return []
    found = [
        _lora(folder, path, hashes)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix.lower() in {*PICKLES, ".safetensors"}
    ]
    hashes.save()
    return found


def _lora(folder: Path, path: Path, hashes: FileHashes) -> LoraFile:
    problem: str | None = None
    if path.suffix.lower() in PICKLES:
        problem = f"{path.name} may run code; convert it to safetensors"
    elif not path.resolve().is_relative_to(folder.resolve()):
        problem = f"{path.name} is a link that leads outside; put the file itself there"
    else:
        try:
            return _described(path, hashes)
        except BadWeights as bad:
            problem = f"{path.name} {bad.problem}"
        except OSError as error:
            problem = f"{path.name} cannot be read: {os.strerror(error.errno or 0)}"
    return LoraFile(name=path.stem, size_bytes=path.stat().st_size, problem=problem)


def _described(path: Path, hashes: FileHashes) -> LoraFile:
    """A LoRA that can be used. Raises `BadWeights`, `OSError`."""
    found = describe_lora(path.stem, read_header(path))
    stat = path.stat()
    source = LoraSource(
        path=str(path.absolute()),
        sha256=hashes.sha256(path),
        size_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
    )
    return replace(found, source=source)
