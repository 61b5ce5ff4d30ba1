"""The models in a worker's memory: the least recently used makes room for the next."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest
from genserve.pipelines import faults, registry
from genserve.pipelines.base import DeviceKind, Pipeline
from genserve.pipelines.shelf import Shelf, weights_in


@dataclass(frozen=True, slots=True)
class _Resident:
    """A loaded model, and the stamp of its files when they were read."""

    stamp: str
    pipeline: Pipeline


class Residents:
    """Loaded pipelines by model id, within a budget of memory."""

    def __init__(self, device: DeviceKind, budget_bytes: int, shelf: Shelf | None = None) -> None:
        self._device = device
        self._shelf = shelf or Shelf()
        self._budget_bytes = budget_bytes
        self._residents: OrderedDict[str, _Resident] = OrderedDict()

    @property
    def ids(self) -> tuple[str, ...]:
        """What is loaded, the most recently used last."""
        return tuple(self._residents)

    def used_bytes(self) -> int:
        """What the models take of the device's memory, what they share counted once."""
        alone = sum(resident.pipeline.size_bytes() for resident in self._residents.values())
        return alone + self._shelf.shared_bytes()

    def find(self, spec: ModelSpec) -> Pipeline | None:
        """The model if it is loaded as it is now on disk, which counts as use."""
        resident = self._residents.get(spec.id)
        if resident is None or resident.stamp != spec.stamp:
            return None
        self._residents.move_to_end(spec.id)
        return resident.pipeline

    def load(self, spec: ModelSpec) -> Pipeline:
        """Load a model, after making room for it. When it does not fit, alone.

        What was loaded under its id before its files changed is the first to make room; the
        networks that are still the same go over to the new one. Raises `BrokenModel`,
        `ImportError`, or what the libraries raise.
        """
        if spec.id in self._residents:
            self._residents.move_to_end(spec.id, last=False)
        self._make_room(self._to_come(spec, _sources(spec)))
        pipeline = registry.make(spec.family)
        if not _fits(partial(self._try, pipeline, spec), alone=not self._residents):
            self.evict_others("")
            pipeline = registry.make(spec.family)
            self._try(pipeline, spec)
        self.unload(spec.id)
        self._residents[spec.id] = _Resident(spec.stamp, pipeline)
        return pipeline

    def complete(self, spec: ModelSpec, request: GenerationRequest) -> None:
        """Read what the request needs beside what its model was loaded with: a ControlNet.

        After making room for it; when it does not fit, with the model alone. The model must be the
        most recently used. Raises as `load`, or `LookupError` when the model is not loaded.
        """
        lacking = self._residents[spec.id].pipeline.lacking(request)
        if lacking:
            self._make_room(self._to_come(spec, lacking), stay=1)
        for read in lacking.values():
            if not _fits(read, alone=len(self._residents) == 1):
                self.evict_others(spec.id)
                read()

    def unload(self, model_id: str) -> None:
        """Give back what that model takes; nothing when it is not loaded."""
        resident = self._residents.pop(model_id, None)
        if resident is not None:
            resident.pipeline.unload()
            del resident  # or its memory could not be released
            faults.release_memory()

    def evict_others(self, model_id: str) -> bool:
        """Unload everything but that model; whether there was anything."""
        others = [other for other in self._residents if other != model_id]
        for other in others:
            self._residents.pop(other).pipeline.unload()
        faults.release_memory()
        return bool(others)

    def _try(self, pipeline: Pipeline, spec: ModelSpec) -> None:
        """Load it, or leave nothing of it behind."""
        try:
            pipeline.load(spec, self._device, self._shelf)
        except BaseException:
            pipeline.unload()
            raise

    def _to_come(self, spec: ModelSpec, sources: Iterable[Path]) -> int:
        """What reading these will take of the device's memory."""
        waits_outside = self._device != "cpu" and spec.offload != "none"
        return 0 if waits_outside else _missing_bytes(sources, self._shelf)

    def _make_room(self, needed_bytes: int, stay: int = 0) -> None:
        """Unload the least recently used while it does not fit; the last `stay` are left."""
        while len(self._residents) > stay and self.used_bytes() + needed_bytes > self._budget_bytes:
            _, oldest = self._residents.popitem(last=False)
            oldest.pipeline.unload()
            del oldest  # or its memory could not be released
            faults.release_memory()


def weights_bytes(spec: ModelSpec, shelf: Shelf) -> int:
    """How large the weights are on disk that are yet to be read: a guess at what they will take.

    Without its ControlNets, which are read when they are asked for.
    """
    return _missing_bytes(_sources(spec), shelf)


def _missing_bytes(sources: Iterable[Path], shelf: Shelf) -> int:
    missing = (source for source in sources if not shelf.holds(source))
    return sum(file.stat().st_size for source in missing for file in _files(source))


def _fits(read: Callable[[], object], *, alone: bool) -> bool:
    """Whether there was memory enough; what is `alone` raises, since nobody could make room."""
    try:
        read()
    except Exception as error:
        if alone or faults.classify(error) is not faults.Fault.OUT_OF_MEMORY:
            raise
        return False
    return True


def _sources(spec: ModelSpec) -> list[Path]:
    """The folders and files of the networks that a model is loaded with, each network's once."""
    networks: dict[str, Path] = {}
    for folder in (spec.base, spec.folder):
        if folder is not None and folder.is_dir():
            networks |= {part.name: part for part in sorted(folder.iterdir()) if part.is_dir()}
    if spec.vae is not None:
        networks["vae"] = spec.vae
    alone = [spec.folder] if spec.folder.is_file() else []
    is_control = spec.folder in spec.controls.values()
    whole = is_control or (spec.folder / "model_index.json").is_file()
    if not whole and spec.folder.is_dir():
        alone = weights_in(spec.folder)  # they are no network's second copy then
    return [*networks.values(), *alone]


def _files(source: Path) -> list[Path]:
    return [source] if source.is_file() else weights_in(source)
