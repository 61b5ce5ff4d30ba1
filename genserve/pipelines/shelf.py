"""Components in memory, each once however many models use it: T5, CLIP and VAE of Flux's variants.

Two components are the same when their weights' files and their configuration say the same. Equal
paths and equal sizes are looked at first; only when those leave doubt are the files' contents
hashed, once, see `file_hashes`.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from genserve.file_hashes import FileHashes, FileStamp
from genserve.pipelines.weight_files import weights_in

T = TypeVar("T")

_CONFIG = "config.json"
_WITHOUT_MEANING = frozenset({"transformers_version", "dtype", "torch_dtype"})
"""In a configuration: who wrote the file, and a dtype that ours overrides."""


@dataclass(frozen=True, slots=True)
class _Source:
    """The files of a component, by name as they were when it was read, and its configuration."""

    stamps: dict[str, FileStamp]
    config: str

    def may_equal(self, other: "_Source") -> bool:
        """Whether a look at the content is worth its time."""
        return self.config == other.config and self._sizes() == other._sizes()

    def _sizes(self) -> dict[str, int]:
        return {name: stamp.size for name, stamp in self.stamps.items()}


@dataclass(slots=True)
class _Part:
    source: _Source
    form: str
    component: Any
    users: set[int] = field(default_factory=set)


class Shelf:
    """What a worker holds in memory, and for whom. Used by one thread."""

    def __init__(self, device: str = "cpu", hashes: Path | None = None) -> None:
        """Sizes are counted on `device`: what waits elsewhere takes nothing there.

        `hashes` is the folder that remembers what was hashed; None: only this process does.
        """
        self._device = device
        self._hashes = FileHashes(hashes)
        self._parts: list[_Part] = []

    def take(self, user: object, source: Path, form: str, make: Callable[[], T]) -> T:
        """The component of that folder (or weights file): the one there is, else a made one.

        `form` says all that makes it different in memory: dtype, quantisation, placement. It stays
        until every user has given back. Raises what `make` raises; then nothing is kept.
        """
        wanted = _source(source)
        part = self._find(wanted, form)
        if part is None:
            part = _Part(wanted, form, make())
            self._parts.append(part)
        part.users.add(id(user))
        component: T = part.component
        return component

    def give_back(self, user: object) -> None:
        """This user needs nothing more; what nobody needs is gone."""
        for part in self._parts:
            part.users.discard(id(user))
        self._parts = [part for part in self._parts if part.users]

    def alone_bytes(self, user: object) -> int:
        """What only this user holds."""
        return self._bytes(part for part in self._parts if part.users == {id(user)})

    def shared_bytes(self) -> int:
        """What more than one user holds, each part once."""
        return self._bytes(part for part in self._parts if len(part.users) > 1)

    def holds(self, source: Path) -> bool:
        """Whether the component of that folder or file is there already, in whatever form."""
        wanted = _source(source)
        return any(self._same(part.source, wanted) for part in self._parts)

    def _bytes(self, parts: Iterable[_Part]) -> int:
        return sum(_size_bytes(part.component, self._device) for part in parts)

    def _find(self, wanted: _Source, form: str) -> _Part | None:
        alike = (part for part in self._parts if part.form == form)
        return next((part for part in alike if self._same(part.source, wanted)), None)

    def _same(self, one: _Source, other: _Source) -> bool:
        if one.stamps == other.stamps and one.config == other.config:
            return True
        return one.may_equal(other) and all(
            self._equal(stamp, other.stamps[name]) for name, stamp in one.stamps.items()
        )

    def _equal(self, one: FileStamp, other: FileStamp) -> bool:
        if one == other:
            return True
        digest = self._hashes.sha256(one)
        return digest is not None and digest == self._hashes.sha256(other)


def _size_bytes(network: Any, device: str) -> int:
    """What a network's weights and buffers take of that device's memory."""
    weights = [*network.parameters(), *network.buffers()]
    return sum(w.numel() * w.element_size() for w in weights if w.device.type == device)


def _source(source: Path) -> _Source:
    if source.is_file():
        return _Source({"": FileStamp.of(source)}, "")
    return _Source(
        {file.name: FileStamp.of(file) for file in weights_in(source)}, _config(source / _CONFIG)
    )


def _config(file: Path) -> str:
    """What of a component's configuration counts, as one text."""
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return ""
    kept = {
        name: value
        for name, value in content.items()
        if name == "_class_name" or not (name.startswith("_") or name in _WITHOUT_MEANING)
    }
    return json.dumps(kept, sort_keys=True)
