"""What lies in the folder of LoRAs, without loading any of it: see `weights` for the rules."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from genserve.domain.lora import LoraSource
from genserve.file_hashes import FileHashes, FileStamp
from genserve.store.found_files import shown, unreadable, wrong_link, wrong_name
from genserve.store.lora_header import LoraFile, describe_lora
from genserve.store.safetensors_header import BadWeights, read_header
from genserve.store.weights import PICKLES

__all__ = ["LoraFile", "changed_since", "scan_loras"]


def scan_loras(folder: Path, hashes: FileHashes, known: Iterable[LoraFile] = ()) -> list[LoraFile]:
    """The LoRA files directly in a folder, by name. Reads headers, and new files for their hash.

    Files that are still as they were in `known` are not read again. Raises `OSError`.
    """
    if not folder.is_dir():
        return []
    unchanged = {lora.stamp: lora for lora in known if lora.stamp is not None}
    return [
        found
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in {*PICKLES, ".safetensors"}
        and (found := _lora(folder, path, hashes, unchanged)) is not None
    ]


def changed_since(folder: Path, lora: LoraFile) -> bool:
    """Whether the file is another one than was scanned, or gone. Looks at nothing but its stamp."""
    try:
        return FileStamp.of(folder / lora.file_name) != lora.stamp
    except OSError:
        return True


def _lora(
    folder: Path, path: Path, hashes: FileHashes, unchanged: dict[FileStamp, LoraFile]
) -> LoraFile | None:
    """The file as it is now; None when it is none, or has just gone."""
    try:
        stamp = FileStamp.of(path)
    except OSError:
        return None
    if not path.is_file():
        return None
    known = unchanged.get(stamp)
    if known is not None and known.file_name == path.name:
        return known
    found = _looked_at(folder, path, hashes, stamp)
    return replace(found, file_name=path.name, stamp=stamp)


def _looked_at(folder: Path, path: Path, hashes: FileHashes, stamp: FileStamp) -> LoraFile:
    try:
        return _described(folder, path, hashes, stamp)
    except BadWeights as bad:
        problem = shown(f"{path.name} {bad.problem}")
    except OSError as error:
        problem = unreadable(path.name, error)
    return LoraFile(name=shown(path.stem), size_bytes=stamp.size, problem=problem)


def _described(folder: Path, path: Path, hashes: FileHashes, stamp: FileStamp) -> LoraFile:
    """A LoRA that can be used. Raises `BadWeights`, `OSError`."""
    if path.suffix.lower() in PICKLES:
        raise BadWeights("may run code; convert it to safetensors")
    wrong = wrong_name(path) or wrong_link(path, folder)
    if wrong is not None:
        raise BadWeights(wrong)
    found = describe_lora(path.stem, read_header(path))
    sha256 = hashes.sha256(stamp)
    if sha256 is None:
        raise BadWeights("is being written; wait until all of it is there")
    source = LoraSource(
        path=str(path.absolute()),
        sha256=sha256,
        size_bytes=stamp.size,
        mtime_ns=stamp.mtime_ns,
        inode=stamp.inode,
    )
    return replace(found, source=source)
