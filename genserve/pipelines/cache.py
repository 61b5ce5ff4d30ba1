"""The models in a worker's memory: the least recently used makes room for the next."""

from collections import OrderedDict
from pathlib import Path

from genserve.domain.model import ModelSpec
from genserve.pipelines import faults, registry
from genserve.pipelines.base import DeviceKind, Pipeline


class Residents:
    """Loaded pipelines by model id, within a budget of memory."""

    def __init__(self, device: DeviceKind, budget_bytes: int) -> None:
        self._device = device
        self._budget_bytes = budget_bytes
        self._pipelines: OrderedDict[str, Pipeline] = OrderedDict()

    @property
    def ids(self) -> tuple[str, ...]:
        """What is loaded, the most recently used last."""
        return tuple(self._pipelines)

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
        self._make_room(weights_bytes(spec.folder))
        pipeline = registry.make(spec.family)
        if not self._load_into(pipeline, spec):
            self.evict_others("")
            pipeline = registry.make(spec.family)
            pipeline.load(spec, self._device, spec.dtype)
        self._pipelines[spec.id] = pipeline
        return pipeline

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
            pipeline.load(spec, self._device, spec.dtype)
        except Exception as error:
            if not self._pipelines or faults.classify(error) is not faults.Fault.OUT_OF_MEMORY:
                raise
            return False
        return True

    def _make_room(self, needed_bytes: int) -> None:
        used_bytes = sum(pipeline.size_bytes() for pipeline in self._pipelines.values())
        while self._pipelines and used_bytes + needed_bytes > self._budget_bytes:
            _, oldest = self._pipelines.popitem(last=False)
            used_bytes -= oldest.size_bytes()
            oldest.unload()
            faults.release_memory()


def weights_bytes(folder: Path) -> int:
    """How large a model's weights are on disk: a guess at what they will take in memory."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
