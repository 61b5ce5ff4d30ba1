"""Which LoRAs there are, and whether a request's fit the model."""

from collections.abc import Iterable

from genserve.domain.lora import LoraSource
from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest, LoraRef
from genserve.errors import (
    DuplicateLora,
    LoraBroken,
    LoraDoesNotFit,
    LoraOfAnotherFamily,
    UnknownLora,
    UnsupportedLora,
)
from genserve.store.lora_header import LoraFile

PACKED = frozenset({"nf4"})
"""Ways to keep weights into which nothing can be merged."""


class LoraCatalog:
    """The LoRA files as they were found."""

    def __init__(self, found: Iterable[LoraFile]) -> None:
        self._files = {lora.name: lora for lora in found}

    def all(self) -> list[LoraFile]:
        """Every LoRA file, also those that cannot be used."""
        return list(self._files.values())

    def sources(self, request: GenerationRequest) -> dict[str, LoraSource]:
        """The files of the request's LoRAs by name. Raises `UnknownLora`, `LoraBroken`."""
        return {lora.name: self._source(lora) for lora in request.loras}

    def check(self, request: GenerationRequest, spec: ModelSpec) -> None:
        """Raise what is wrong with the request's LoRAs for the model that draws."""
        names: set[str] = set()
        for lora in request.loras:
            if lora.name in names:
                raise DuplicateLora(lora=lora.name)
            names.add(lora.name)
            self._source(lora)
        if request.loras and not spec.capabilities.loras:
            raise UnsupportedLora(model=request.model)
        for lora in request.loras:
            self._check_family(lora, request.model, spec)

    def _source(self, lora: LoraRef) -> LoraSource:
        file = self._files.get(lora.name)
        if file is None:
            usable = sorted(one.name for one in self._files.values() if one.source is not None)
            raise UnknownLora(lora=lora.name, available=[*usable])
        if file.source is None:
            raise LoraBroken(lora=lora.name, reason=file.problem or "its file cannot be read")
        return file.source

    def _check_family(self, lora: LoraRef, model: str, spec: ModelSpec) -> None:
        """A LoRA of which nobody can tell the family is let through: its layers decide."""
        base, takes = self._files[lora.name].base, spec.capabilities.lora_base
        if base is not None and takes is not None and base != takes:
            raise LoraOfAnotherFamily(lora=lora.name, base=base, model=model, takes=takes)
        if spec.quantization in PACKED:
            reason = f"it keeps its weights in {spec.quantization}; LoRAs need fp8 or none"
            raise LoraDoesNotFit(lora=lora.name, model=spec.id, reason=reason)
