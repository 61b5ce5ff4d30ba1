"""Which LoRAs the models of a worker process wear, and what the server is told of it."""

from collections.abc import Callable
from typing import Any

from genserve.domain.lora import LoraSource
from genserve.domain.request import GenerationRequest
from genserve.domain.task import Degraded
from genserve.pipelines.base import Pipeline
from genserve.workers.channel import ChildSettings

OTHER = "*"
"""What a model wears because another one that shares a network with it was asked to."""


class Dressing:
    """One process's wardrobe, made when the first model with networks is dressed."""

    def __init__(self, settings: ChildSettings) -> None:
        self._settings = settings
        self._wardrobe: Any = None
        self._now: dict[int, Any] = {}
        """What each network wears, by its identity."""
        self._asked: dict[str, tuple[str, dict[int, Any]]] = {}
        """What models were asked to wear, and what their networks wore then."""

    def dress(
        self,
        pipeline: Pipeline,
        request: GenerationRequest,
        files: dict[str, LoraSource],
        *,
        model_id: str,
        check: Callable[[], None],
    ) -> tuple[Degraded, ...]:
        """Have the model wear the request's LoRAs and nothing else; see `Wardrobe.wear`."""
        parts = pipeline.parts()
        if not parts:  # the fake family, which needs no torch
            return ()
        wardrobe = self._made()
        try:
            left_out: tuple[Degraded, ...] = wardrobe.wear(
                parts, request.loras, files, model=model_id, check=check
            )
        finally:
            worn = dict(zip(map(id, parts.values()), wardrobe.outfit(parts), strict=True))
            self._now |= worn
        self._asked[model_id] = (request.lora_key, worn)
        return left_out

    def undress(self, pipeline: Pipeline, model_id: str) -> None:
        """Take off what a newly read model wears because it shares networks with another."""
        nothing = GenerationRequest(model=model_id, prompt="")
        self.dress(pipeline, nothing, {}, model_id=model_id, check=lambda: None)

    def keys(self, loaded: tuple[str, ...]) -> dict[str, str]:
        """What the loaded models wear, as `WorkerInfo.lora_keys` has it."""
        self._asked = {model: asked for model, asked in self._asked.items() if model in loaded}
        known = {network for _, worn in self._asked.values() for network in worn}
        self._now = {network: outfit for network, outfit in self._now.items() if network in known}
        told = {
            model: key
            if all(self._now[network] == outfit for network, outfit in worn.items())
            else OTHER
            for model, (key, worn) in self._asked.items()
        }
        return {model: key for model, key in told.items() if key}

    def _made(self) -> Any:
        if self._wardrobe is None:
            from genserve.pipelines.wardrobe import Wardrobe  # torch: only where it is needed

            self._wardrobe = Wardrobe(
                self._settings.device,
                files_bytes=self._settings.lora_cache_bytes,
                pristine_bytes=self._settings.lora_device_bytes,
            )
        return self._wardrobe
