"""After a restart, a known picture is drawn and compared: a damaged device draws another one.

The hash is recorded by the first process that ever loads a model on a device with this software;
a process that replaces a dead one compares. One step of a small picture, so it costs little.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from PIL import Image

from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest, Mode
from genserve.domain.samplers import canonical_scheduler
from genserve.errors import UnsupportedMode
from genserve.pipelines.base import Pipeline, Stage, UnusablePicture, as_configured
from genserve.pipelines.images import refuse_constant

log = logging.getLogger("child.canary")

_PIXELS = 256
"""Side of the picture, in pixels, for models without trained sizes of their own."""


class CanaryMismatch(Exception):
    """The device draws the known picture differently than it did, or not at all."""


def software() -> dict[str, str]:
    """The versions that decide what exactly is drawn."""
    return {name: version(name) for name in ("torch", "diffusers", "transformers")}


def check(
    pipeline: Pipeline, spec: ModelSpec, *, folder: Path, device: str, restarted: bool
) -> None:
    """Record the canary of a freshly loaded model, or compare with what was recorded.

    `device` is the device's full name with whatever else about it decides the picture. A model
    that draws nothing usable from the start is not recorded: that is not the device's fault. One
    that cannot draw from text alone (an inpainting checkpoint, whatever its entry says) has no
    canary. Raises `CanaryMismatch`, or what drawing raises.
    """
    if Mode.TEXT2IMG not in spec.capabilities.modes:
        return
    request = _request(spec)
    key = {
        "device": device,
        "weights": _weights(spec),
        "request": request.model_dump(mode="json"),
        "options": spec.options,
        "dtype": spec.dtype,
        "quantization": spec.quantization,
        "vae_tiling": spec.vae_tiling,
        **software(),
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    file = folder / f"{name}.json"
    recorded = _read(file)
    if recorded is not None and not restarted:
        return
    with as_configured(pipeline, spec):
        drawn = _draw(pipeline, request)
    if recorded is None and drawn is not None:
        _write(file, {**key, "sha256": drawn})
    elif recorded != drawn:
        raise CanaryMismatch


class _Silent:
    """Nobody watches a canary."""

    attempt = 1

    def stage(self, stage: Stage) -> None:
        pass

    def step(self, done: int, total: int) -> None:
        pass

    def preview(self, make: Callable[[], Image.Image]) -> None:
        pass


def _request(spec: ModelSpec) -> GenerationRequest:
    width, height = spec.buckets[0] if spec.buckets else (_PIXELS, _PIXELS)
    return GenerationRequest(
        model=spec.id,
        prompt="a red circle on a white background",
        width=width,
        height=height,
        seed=0,
        steps=1,
        guidance=spec.defaults.guidance,
        scheduler=canonical_scheduler(spec.defaults.scheduler),
    )


def _draw(pipeline: Pipeline, request: GenerationRequest) -> str | None:
    """The hash of the known picture, None when it is unusable or not to be had."""
    try:
        image = pipeline.generate(request, request.seed or 0, {}, _Silent())
        refuse_constant(image)
    except (UnusablePicture, UnsupportedMode):
        return None
    return hashlib.sha256(image.tobytes()).hexdigest()


def _weights(spec: ModelSpec) -> list[list[str | int]]:
    """Which files the model is made of, without reading them. What it draws from text is of no
    ControlNet's making."""
    return [
        [str(file.relative_to(place)), file.stat().st_size, file.stat().st_mtime_ns]
        for place in (spec.folder, spec.base, spec.vae)
        if place is not None
        for file in _files(place)
    ]


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return sorted(file for file in place.rglob("*") if file.suffix in (".safetensors", ".gguf"))


def _read(file: Path) -> str | None:
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return str(recorded["sha256"])


def _write(file: Path, content: dict[str, object]) -> None:
    """At once or not at all: two processes may record the same canary.

    A full disk costs the canary, not the model.
    """
    unfinished = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
        unfinished.replace(file)
    except OSError:
        log.warning("cannot record a canary", exc_info=True)
