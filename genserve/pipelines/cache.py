"""The models in a worker's memory: the least recently used makes room for the next."""

from collections import OrderedDict
from pathlib import Path

from genserve.domain.model import ModelSpec
from genserve.pipelines import faults, registry
from genserve.pipelines.base import DeviceKind, Pipeline
from genserve.pipelines.shelf import Shelf, weights_in


class Residents:
    """Loaded pipelines by model id, within a budget of memory."""

    def __init__(self, device: DeviceKind, budget_bytes: int, shelf: Shelf | None = None) -> None:
        self._device = device
        self._shelf = shelf or Shelf()
        self._budget_bytes = budget_bytes
        self._pipelines: OrderedDict[str, Pipeline] = OrderedDict()

    @property
    def ids(self) -> tuple[str, ...]:
        """What is loaded, the most recently used last."""
        return tuple(self._pipelines)

    def used_bytes(self) -> int:
        """What the models take of the device's memory, what they share counted once."""
        alone = sum(pipeline.size_bytes() for pipeline in self._pipelines.values())
        return alone + self._shelf.shared_bytes()

    def find(self, spec: ModelSpec) -> Pipeline | None:
        """The model if it is loaded, which counts as use."""
        pipeline = self._pipelines.get(spec.id)
        if pipeline is not None:
            self._pipelines.move_to_end(spec.id)
        return pipeline

    def load(self, spec: ModelSpec) -> Pipeline:
        """Load a model, after making room for it. When it does not fit, alone.

        Raises `BrokenModel`, `ImportError`, or what the libraries raise.
        """
        waits_outside = self._device != "cpu" and spec.offload != "none"
        self._make_room(0 if waits_outside else weights_bytes(spec, self._shelf))
        pipeline = registry.make(spec.family)
        if not self._load_into(pipeline, spec):
            self.evict_others("")
            pipeline = registry.make(spec.family)
            self._try(pipeline, spec)
        self._pipelines[spec.id] = pipeline
        return pipeline

    def unload(self, model_id: str) -> None:
        """Give back what that model takes; nothing when it is not loaded."""
        pipeline = self._pipelines.pop(model_id, None)
        if pipeline is not None:
            pipeline.unload()
            del pipeline  # or its memory could not be released
            faults.release_memory()

    def evict_others(self, model_id: str) -> bool:
        """Unload everything but that model; whether there was anything."""
        others = [other for other in self._pipelines if other != model_id]
        for other in others:
            self._pipelines.pop(other).unload()
        faults.release_memory()
        return bool(others)

    def _load_into(self, pipeline: Pipeline, spec: ModelSpec) -> bool:
        """Whether it could be loaded beside the others, or there are none to blame."""
        try:
            self._try(pipeline, spec)
        except Exception as error:
            if not self._pipelines or faults.classify(error) is not faults.Fault.OUT_OF_MEMORY:
                raise
            return False
        return True

    def _try(self, pipeline: Pipeline, spec: ModelSpec) -> None:
        """Load it, or leave nothing of it behind."""
        try:
            pipeline.load(spec, self._device, self._shelf)
        except BaseException:
            pipeline.unload()
            raise

    def _make_room(self, needed_bytes: int) -> None:
        while self._pipelines and self.used_bytes() + needed_bytes > self._budget_bytes:
            _, oldest = self._pipelines.popitem(last=False)
            oldest.unload()
            faults.release_memory()


def weights_bytes(spec: ModelSpec, shelf: Shelf) -> int:
    """How large the weights are on disk that are yet to be read: a guess at what they will take."""
    missing = (source for source in _sources(spec) if not shelf.holds(source))
    return sum(file.stat().st_size for source in missing for file in _files(source))


def _sources(spec: ModelSpec) -> list[Path]:
    """The folders and files of a model's networks, each network's once."""
    networks: dict[str, Path] = {}
    for folder in (spec.base, spec.folder):
        if folder is not None and folder.is_dir():
            networks |= {part.name: part for part in sorted(folder.iterdir()) if part.is_dir()}
    if spec.vae is not None:
        networks["vae"] = spec.vae
    alone = [spec.folder] if spec.folder.is_file() else []
    if not (spec.folder / "model_index.json").is_file() and spec.folder.is_dir():
        alone = weights_in(spec.folder)  # they are no network's second copy then
    controls = [folder for folder in spec.controls.values() if folder != spec.folder]
    return [*networks.values(), *alone, *controls]


def _files(source: Path) -> list[Path]:
    return [source] if source.is_file() else weights_in(source)
