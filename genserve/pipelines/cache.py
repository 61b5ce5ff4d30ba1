"""The models in a worker's memory: the least recently used makes room for the next."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from genserve.domain.model import ModelSpec, Offload
from genserve.domain.request import GenerationRequest
from genserve.domain.task import Degraded
from genserve.pipelines import faults, registry, weighing
from genserve.pipelines.base import DeviceKind, Pipeline
from genserve.pipelines.shelf import Shelf


@dataclass(frozen=True, slots=True)
class _Resident:
    """A loaded model, and the stamp of its files when they were read."""

    stamp: str
    pipeline: Pipeline
    degraded: tuple[Degraded, ...] = ()
    """How it has to wait to fit at all."""


EVICTED = Degraded(code="evicted_models", detail="Other models were unloaded to make room.")
OFFLOADED: dict[Offload, Degraded] = {
    "model": Degraded(
        code="offloaded_networks",
        detail="The model's networks waited in CPU memory for their turn.",
    ),
    "sequential": Degraded(
        code="offloaded_layers",
        detail="The layers of the model's networks waited in CPU memory for their turn.",
    ),
}
"""From what costs less time to what costs more."""


class Residents:
    """Loaded pipelines by model id, within a budget of memory."""

    def __init__(self, device: DeviceKind, budget_bytes: int, shelf: Shelf | None = None) -> None:
        self._device = device
        self._shelf = shelf or Shelf()
        self._budget_bytes = budget_bytes
        self._residents: OrderedDict[str, _Resident] = OrderedDict()
        self.evictions = 0
        """How often others were unloaded since memory ran out: more than the budget asks for."""

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
        """Load a model, after making room for it. When it does not fit, alone; when it does not fit
        alone either, on a GPU, with ever more of it in CPU memory.

        What was loaded under its id before its files changed is the first to make room; the
        networks that are still the same go over to the new one. Raises `BrokenModel`,
        `ImportError`, or what the libraries raise.
        """
        if spec.id in self._residents:
            self._residents.move_to_end(spec.id, last=False)
        self._make_room(self._to_come(spec, weighing.sources(spec)))
        pipeline, how = self._read(spec)
        self.unload(spec.id)
        degraded = () if how == spec.offload else (OFFLOADED[how],)
        self._residents[spec.id] = _Resident(spec.stamp, pipeline, degraded)
        self._make_room(0, stay=1)  # now it is known what it takes
        return pipeline

    def _read(self, spec: ModelSpec) -> tuple[Pipeline, Offload]:
        """The model, and how its weights wait after all."""
        ways = _ways(spec, self._device)
        while True:
            pipeline = registry.make(spec.family)
            placed = spec.model_copy(update={"offload": ways[0]})
            last = len(ways) == 1 and not self._residents
            if _fits(partial(self._try, pipeline, placed), alone=last):
                return pipeline, ways[0]
            if spec.id in self._residents:
                self.unload(spec.id)  # as it was before its files changed: nobody misses that
            elif not self.evict_others(spec.id):
                ways = ways[1:]

    def degraded(self, model_id: str) -> tuple[Degraded, ...]:
        """What every answer of a loaded model says of how it is kept."""
        resident = self._residents.get(model_id)
        return resident.degraded if resident is not None else ()

    def complete(self, spec: ModelSpec, request: GenerationRequest) -> None:
        """Read what the request needs beside what its model was loaded with: a ControlNet.

        After making room for it, as the budget says. The model must be the most recently used.
        Raises what reading raises, also when memory runs out: that is the task's ladder's business.
        `LookupError` when the model is not loaded.
        """
        lacking = self._residents[spec.id].pipeline.lacking(request)
        if lacking:
            self._make_room(self._to_come(spec, lacking), stay=1)
        for read in lacking.values():
            read()
        self._make_room(0, stay=1)

    def unload(self, model_id: str) -> None:
        """Give back what that model takes; nothing when it is not loaded."""
        resident = self._residents.pop(model_id, None)
        if resident is not None:
            resident.pipeline.unload()
            del resident  # or its memory could not be released
            faults.release_memory()

    def evict_others(self, model_id: str) -> bool:
        """Unload everything but that model, for lack of memory; whether there was anything."""
        others = [other for other in self._residents if other != model_id]
        for other in others:
            self._residents.pop(other).pipeline.unload()
        faults.release_memory()
        self.evictions += bool(others)
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
        if waits_outside:
            return 0
        return weighing.missing_bytes(sources, spec, self._shelf, self._device)

    def _make_room(self, needed_bytes: int, stay: int = 0) -> None:
        """Unload the least recently used while it does not fit; the last `stay` are left."""
        while len(self._residents) > stay and self.used_bytes() + needed_bytes > self._budget_bytes:
            _, oldest = self._residents.popitem(last=False)
            oldest.pipeline.unload()
            del oldest  # or its memory could not be released
            faults.release_memory()


def _ways(spec: ModelSpec, device: DeviceKind) -> list[Offload]:
    """How the model's weights may wait: as configured, then ever more of them in CPU memory.

    Quantised weights of GGUF and nf4 do not survive being taken apart layer by layer.
    """
    if device == "cpu" or spec.offload != "none":
        return [spec.offload]
    files = (file for source in weighing.sources(spec) for file in weighing.files_of(source))
    taken_apart = spec.quantization != "nf4" and not any(f.suffix == ".gguf" for f in files)
    return ["none", "model", "sequential"] if taken_apart else ["none", "model"]


def _fits(read: Callable[[], object], *, alone: bool) -> bool:
    """Whether there was memory enough; what is `alone` raises, since nobody could make room."""
    try:
        read()
    except Exception as error:
        if alone or faults.classify(error) is not faults.Fault.OUT_OF_MEMORY:
            raise
        return False
    return True
