"""A full-size model with made-up weights, drawn by GenServe and by diffusers alone, side by side.

Each side has a worker process of its own, one after the other: so each one's peak of memory is its
own, neither inherits the other's allocator, and a GPU that holds one model holds both in turn.
"""

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
import uvloop
from PIL import Image

from genserve.cli.bench.side import PATIENCE_S, Side, Tell, Work, measure
from genserve.cli.bench.side_by_side import Compared
from genserve.config import Pool
from genserve.config_sources import inherited_environment
from genserve.domain.model import Capabilities, ModelSpec
from genserve.domain.request import FileRef, GenerationRequest, ImageRole, InputImage
from genserve.domain.sizes import in_words
from genserve.errors import CommandFailed, ConfigError, NotEnoughDeviceMemory
from genserve.pipelines import full_size, shrinking
from genserve.store.blobs import BlobStore
from genserve.workers import devices
from genserve.workers.devices import Device
from genserve.workers.process import child_environment

TOKENIZERS = Path(__file__).resolve().parents[3] / "models" / "tiny-flux-dev"
PROMPT = "a red cat on a blue background, sitting in the garden, soft light, high quality"
WORKING_BYTES_PER_PIXEL = 3 * 1024
"""What drawing takes beside the weights, an estimate from a VAE's widest layers: its decoder holds
a few tensors of 256 channels at the picture's full size. At 1024x1024 that is 3 GiB."""

Weights = dict[str, dict[str, tuple[int, int]]]
"""Model → network → parameters, bytes."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What to measure; `None` is what the model is usually asked for."""

    name: str
    steps: int | None = None
    width: int | None = None
    height: int | None = None
    runs: int = 3
    device: str = "auto"
    shrink: int = 1


def run(asked: Asked, folder: Path, *, as_json: bool) -> None:
    """Measure and show it. Raises `ConfigError`, `NotEnoughDeviceMemory`, `CommandFailed`."""
    request = _request(asked)
    device = _device(asked.device)
    spec = _spec(asked.name, device, folder / "models", asked.shrink)
    weights = _check_memory(spec, request, device, folder, asked.shrink)
    request, inputs = _with_pictures(request, full_size.usual(asked.name).images, folder)
    work = Work(spec, request, inputs, asked.runs)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ours = runner.run(measure(work, device, folder, _teller("GenServe")))
        plain = Work(_plain(spec), request, inputs, asked.runs)
        theirs: Side | CommandFailed
        try:
            tell = _teller("diffusers")
            theirs = runner.run(measure(plain, device, folder, tell, stage="process"))
        except CommandFailed as failed:  # no reason to throw away what GenServe took
            theirs = failed
    compared = Compared(asked.name, request, device, ours, theirs, weights, asked.shrink)
    compared.show(as_json=as_json)


def _request(asked: Asked) -> GenerationRequest:
    """What both sides draw, without its pictures. Raises `ConfigError`."""
    if asked.name not in full_size.names():
        known = ", ".join(full_size.names())
        raise ConfigError(problem=f"--synthetic knows no {asked.name}; it knows {known}")
    if asked.shrink not in shrinking.FACTORS:
        known = ", ".join(map(str, shrinking.FACTORS))
        raise ConfigError(problem=f"--shrink must be one of {known}")
    usual = full_size.usual(asked.name)
    width, height = asked.width or usual.side, asked.height or usual.side
    if width % usual.multiple_of or height % usual.multiple_of:
        raise ConfigError(
            problem=f"--width and --height of {asked.name} must be multiples of {usual.multiple_of}"
        )
    return GenerationRequest(
        model=asked.name,
        mode=usual.mode,
        prompt=PROMPT,
        width=width,
        height=height,
        seed=1,
        steps=asked.steps or usual.steps,
        guidance=usual.guidance,
        scheduler="euler",
        strength=1.0,
    )


def _device(asked: str) -> Device:
    """The device to measure. Raises `ConfigError`."""
    if asked not in ("auto", "cpu") and not asked.isdecimal():
        raise ConfigError(problem="--device must be auto, cpu, or the number of a GPU")
    chosen: tuple[int, ...] | str = {"auto": "auto", "cpu": "cpu:1"}.get(asked, "")
    gpus = devices.installed_gpus()
    settings = Pool(devices=chosen or (int(asked),))
    device = devices.choose(settings, inherited_environment(), gpus)[0]
    if not chosen and int(asked) not in [gpu.number for gpu in gpus]:
        there = ", ".join(str(gpu.number) for gpu in gpus) or "none"
        raise ConfigError(problem=f"--device: there is no GPU {asked}; there are: {there}")
    return device


def _spec(name: str, device: Device, folder: Path, shrink: int) -> ModelSpec:
    """The model as a worker takes it, its folder written. Raises `CommandFailed`."""
    if not (TOKENIZERS / "tokenizer").is_dir():
        raise CommandFailed(problem=f"this benchmark needs the shipped model {TOKENIZERS.name}")
    usual = full_size.usual(name)
    return ModelSpec(
        id=name,
        family=usual.family,
        capabilities=Capabilities(modes=(usual.mode,), multiple_of=usual.multiple_of),
        dtype=usual.gpu_dtype if device.kind == "cuda" else "float32",
        options={"random_weights": True},
        **full_size.write(name, folder, TOKENIZERS, shrink=shrink),
    )


def _plain(spec: ModelSpec) -> ModelSpec:
    """The same folders as diffusers' own pipeline. Without modes nobody draws a test picture."""
    changes = {"family": "diffusers", "capabilities": Capabilities(modes=())}
    return spec.model_copy(update=changes)


def _check_memory(
    spec: ModelSpec, request: GenerationRequest, device: Device, folder: Path, shrink: int
) -> int:
    """The bytes of the model's weights. Raises `NotEnoughDeviceMemory`, `CommandFailed`."""
    working = (request.width or 0) * (request.height or 0) * WORKING_BYTES_PER_PIXEL
    weights, free = _bytes(_weigh([spec]))[spec.id], devices.memory_free(device)
    if weights + working <= free:
        return weights
    others = [name for name in full_size.names() if name != spec.id]
    weighed = _weigh([_spec(name, device, folder, shrink) for name in others])
    usual = {name: full_size.usual(name).side ** 2 * WORKING_BYTES_PER_PIXEL for name in others}
    raise NotEnoughDeviceMemory(
        model=spec.id,
        device=f"{device.name} ({device.full_name})",
        needed=in_words(weights + working),
        free=in_words(free),
        fitting=[name for name, size in _bytes(weighed).items() if size + usual[name] <= free],
    )


def _weigh(specs: Sequence[ModelSpec]) -> Weights:
    """What the models' weights take. A process of its own asks torch. Raises `CommandFailed`."""
    content = json.dumps([spec.model_dump(mode="json") for spec in specs])
    environment = child_environment(inherited_environment(), CUDA_VISIBLE_DEVICES="")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "genserve.workers.weigh_child", content],
            capture_output=True,
            text=True,
            env=environment,
            timeout=PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        raise CommandFailed(problem="counting the model's weights took too long") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it did not say why"]
        raise CommandFailed(problem=f"the model's weights cannot be counted: {said[-1]}")
    weights: Weights = json.loads(done.stdout)
    return weights


def _bytes(weights: Weights) -> dict[str, int]:
    return {
        model: sum(size for _, size in networks.values()) for model, networks in weights.items()
    }


def _with_pictures(
    request: GenerationRequest, roles: Sequence[ImageRole], folder: Path
) -> tuple[GenerationRequest, dict[str, str]]:
    """The request with a picture for each role, and where those lie, by their names."""
    blobs, images, inputs = BlobStore(folder / "inputs"), [], {}
    size = (request.width or 0, request.height or 0)
    for role in roles:
        buffer = io.BytesIO()
        gradient = Image.radial_gradient("L").resize(size)
        mask = gradient.point(lambda level: 255 if level < 128 else 0)
        (mask if role is ImageRole.MASK else gradient.convert("RGB")).save(buffer, "PNG")
        data = buffer.getvalue()
        name = blobs.put(data)
        inputs[name] = str(blobs.path(name))
        file = FileRef(
            sha256=name,
            media_type="image/png",
            width=size[0],
            height=size[1],
            size_bytes=len(data),
        )
        images.append(InputImage(file=file, role=role))
    return request.model_copy(update={"images": tuple(images)}), inputs


def _teller(side: str) -> Tell:
    return lambda what: typer.echo(f"{side}: {what} …", err=True)
