"""What a model's folder consists of: its networks, their sizes, types and hashes.

Tells what is there. Whether it is whole and sound, the scans in `weights` tell.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from genserve.store.safetensors_header import BadWeights, read_header
from genserve.store.weights import model_components

_CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Weights:
    """One file of weights. `dtypes` by the number of their parameters, the commonest first.

    None of either where the file itself cannot tell.
    """

    path: Path
    size_bytes: int
    parameters: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A component as model_index.json names it, or the one network that a folder is.

    `kind` is its class. `weights` is empty for a tokenizer or a scheduler. `lent`: not this folder
    has it, but the base.
    """

    name: str
    kind: str
    size_bytes: int = 0
    weights: tuple[Weights, ...] = ()
    lent: bool = False

    @property
    def parameters(self) -> int:
        return sum(file.parameters for file in self.weights)

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(dtype for file in self.weights for dtype in file.dtypes))


def parts_of(folder: Path, base: Path | None = None) -> list[Part]:
    """The parts of a model's folder, or of one network's; a missing one is left out.

    `base` is the folder of the model that lends what this one lacks. Raises `BadFolder` where
    nobody can tell which parts there are, and `OSError`.
    """
    if not (folder / "model_index.json").exists():
        return [_part(folder.name, _class_of(folder), folder)]
    parts = []
    for name, (_, kind) in model_components(folder).items():
        if (folder / name).is_dir():
            parts.append(_part(name, kind, folder / name))
        elif base is not None and (base / name).is_dir():
            parts.append(Part(name, kind, lent=True))
    return parts


def sha256_of(path: Path, on_bytes: Callable[[int], None]) -> str:
    """The hash of a file, in hexadecimal; `on_bytes` is told how far it is. Raises `OSError`."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()


def _part(name: str, kind: str, folder: Path) -> Part:
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    weights = tuple(_weights(path) for path in files if path.suffix in (".safetensors", ".gguf"))
    return Part(name, kind, sum(path.stat().st_size for path in files), weights)


def _weights(path: Path) -> Weights:
    """Of a GGUF file, or of a broken one, only the size is told."""
    size = path.stat().st_size
    if path.suffix == ".gguf":
        return Weights(path, size, 0, ("GGUF",))
    try:
        content: dict[str, Any] = json.loads(read_header(path).raw)
    except BadWeights:
        return Weights(path, size, 0, ())
    counts: Counter[str] = Counter()
    for name, tensor in content.items():
        if name != "__metadata__":
            counts[tensor["dtype"]] += prod(tensor["shape"])
    dtypes = tuple(dtype for dtype, _ in counts.most_common())
    return Weights(path, size, sum(counts.values()), dtypes)


def _class_of(folder: Path) -> str:
    """What config.json says that it is."""
    try:
        content = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return ""
    if not isinstance(content, dict):
        return ""
    named = content.get("_class_name") or next(iter(content.get("architectures") or [""]), "")
    return str(named)
