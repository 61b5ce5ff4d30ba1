"""How much memory models' weights take, before any is made: a process that asks the recipes.

Each model is loaded by its recipe on torch's meta device, where tensors have shapes and no numbers.
So what is counted is what the recipe would load, and a folder that does not fit it is refused.
Run as `python -m genserve.workers.weigh_child SPECS` with a JSON list of specs; `dtype` must be
named, since "auto" depends on the device. Answers on stdout with a JSON object: the model's id →
its networks by name → [parameters, bytes].
"""

import json
import os
import sys
from typing import Any

from pydantic import TypeAdapter

from genserve.domain.model import ModelSpec
from genserve.domain.request import (
    Control,
    ControlType,
    FileRef,
    GenerationRequest,
    ImageRole,
    InputImage,
    Mode,
)
from genserve.pipelines import registry
from genserve.pipelines.base import BrokenModel
from genserve.pipelines.shelf import Shelf

_SPECS: TypeAdapter[list[ModelSpec]] = TypeAdapter(list[ModelSpec])
_META: Any = "meta"


def weigh(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """Parameters and bytes of each of the model's networks. Raises as `Pipeline.load`."""
    pipeline = registry.make(spec.family)
    pipeline.load(spec, _META, Shelf(_META))
    for kind in spec.controls:
        for read in pipeline.lacking(_follows(spec, kind)).values():
            read()
    return {name: _weight(network) for name, network in pipeline.parts().items()}


def _follows(spec: ModelSpec, kind: ControlType) -> GenerationRequest:
    """A request that needs the model's ControlNet of that type."""
    file = FileRef(sha256="0" * 64, media_type="image/png", width=1, height=1, size_bytes=1)
    image = InputImage(file=file, role=ImageRole.CONTROL, control=Control(type=kind))
    return GenerationRequest(model=spec.id, mode=Mode.CONTROLNET, prompt="", images=(image,))


def _weight(network: Any) -> tuple[int, int]:
    """Buffers take memory too: SD3.5 medium's table of positions is a fifth of its transformer."""
    weights = list(network.parameters())
    held = [*weights, *network.buffers()]
    return sum(w.numel() for w in weights), sum(w.numel() * w.element_size() for w in held)


def main() -> int:
    """Weigh the models of the first argument."""
    specs = _SPECS.validate_json(sys.argv[1])
    try:
        weighed = {spec.id: weigh(spec) for spec in specs}
    except BrokenModel as error:
        sys.stderr.write(f"{error.reason}\n")
        return 1
    sys.stdout.write(json.dumps(weighed))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    os._exit(main())  # taking torch down takes a second, and nothing is left to be saved
