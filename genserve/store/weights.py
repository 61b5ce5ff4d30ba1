"""What lies in the folders of models, without loading any of it.

Only safetensors files count as weights: a pickle could run code, and so could a .py file. What is
wrong with a folder is said in words for the operator: which file, below the models folder, and
what to do.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genserve.file_hashes import fingerprint
from genserve.store.found_files import (
    Unusable,
    below,
    read_json,
    shown,
    unreadable,
    wrong_link,
    wrong_name,
)
from genserve.store.safetensors_header import BadWeights, read_header

__all__ = [
    "BadFolder",
    "ModelFolder",
    "is_pipeline",
    "model_components",
    "scan_bare",
    "scan_model",
    "scan_part",
    "scan_transformer",
]

PICKLES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".joblib"})
CODE = frozenset({".py", ".pyc", ".so"})
LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion", "flux"})
"""What model_index.json may name: diffusers imports whatever else it finds there. The last two are
parts of diffusers itself."""
_SAFETY_CHECKER = "safety_checker"
_SIGHT = frozenset({"feature_extractor", "image_encoder"})
"""What Stable Diffusion looks at pictures with, for its checker and for adapters."""
COMPONENT_CONFIGS = (
    "config.json",
    "scheduler_config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
)
GGUF_MAGIC = b"GGUF"
SMALL_FILE_BYTES = 2**20
"""Up to here a file's content counts for the revision, beyond only its header or size."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model's folder as it was found.

    `problem`: why it cannot be used. `native_pixels`, `buckets` (width, height) and `multiple_of`
    are from its genserve.json. `revision` says what the weights are, on any machine, as far as can
    be told without reading them; `stamp` changes whenever a file here does.
    """

    present: bool
    problem: str | None = None
    native_pixels: int | None = None
    buckets: tuple[tuple[int, int], ...] = ()
    multiple_of: int | None = None
    revision: str = ""
    stamp: str = ""


class BadFolder(Exception):
    """`problem`: what is wrong with a model's folder, naming the file."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


def is_pipeline(folder: Path) -> bool:
    """Whether a folder has diffusers' layout. One that cannot be read has not."""
    try:
        return (folder / "model_index.json").is_file()
    except OSError:
        return False


def model_components(folder: Path) -> dict[str, tuple[str, str]]:
    """What model_index.json names and a recipe reads: component → (library, class).

    Raises `BadFolder`.
    """
    try:
        return _model_index(folder)
    except Unusable as unusable:
        raise BadFolder(shown(str(unusable))) from None


def scan_model(folder: Path, *, base: Path | None = None) -> ModelFolder:
    """Look into a model's folder in diffusers' layout. Reads headers and small files only.

    `base` is the folder of the model that lends what this one lacks.
    """

    def look(_: list[Path]) -> dict[str, Any]:
        components = _model_index(folder)
        if base is not None:
            components = {name: it for name, it in components.items() if not _lent(base, name)}
        _check_components(folder, components)
        return _own_settings(folder)

    def _lent(base: Path, name: str) -> bool:
        absent = not (base.is_dir() and any(base.iterdir()))  # which is told of the base
        return not (folder / name).exists() and (absent or (base / name).is_dir())

    return _scanned(folder, look)


def scan_part(folder: Path, *configs: str) -> ModelFolder:
    """Look into the folder of one network, a ControlNet or a VAE: its config.json and weights.

    `configs` are other JSON files that it needs.
    """
    return _network(folder, ("config.json", *configs))


def scan_bare(folder: Path) -> ModelFolder:
    """Look into a folder that holds weights alone: an upscaler's one .safetensors file."""
    return _network(folder, ())


def scan_transformer(folder: Path) -> ModelFolder:
    """Look into a folder that holds one transformer in a single .gguf or .safetensors file."""

    def look(files: list[Path]) -> dict[str, Any]:
        weights = [file for file in files if file.suffix in (".gguf", ".safetensors")]
        if len(weights) != 1 or weights[0].parent != folder:
            raise Unusable(
                f"{folder.name} adds to a base, so it must hold one .gguf or .safetensors file, or"
                " be a whole folder with a model_index.json"
            )
        _check_file(folder, weights[0])
        return {}

    return _scanned(folder, look)


def _network(folder: Path, configs: tuple[str, ...]) -> ModelFolder:
    def look(_: list[Path]) -> dict[str, Any]:
        for name in configs:
            read_json(folder, folder / name)
        _check_weights(folder, folder)
        return {}

    return _scanned(folder, look)


def _scanned(folder: Path, look: Callable[[list[Path]], dict[str, Any]]) -> ModelFolder:
    """What is found where `look` finds nothing wrong; it gives what the folder says of itself."""
    try:
        if not folder.is_dir() or not any(folder.iterdir()):
            return ModelFolder(present=False)
        if (wrong := wrong_name(folder)) is not None:
            raise Unusable(f"{folder.name} {wrong}")
        files = list(_files(folder))
        own = look(files)
        stamp = fingerprint(files)
        return ModelFolder(present=True, revision=_revision(folder, files), stamp=stamp, **own)
    except Unusable as unusable:
        return ModelFolder(present=True, problem=shown(str(unusable)))
    except OSError as error:
        return ModelFolder(present=True, problem=unreadable(folder.name, error))


def _files(folder: Path) -> Iterator[Path]:
    """Every file, in order; refuses what must not be there. Hidden folders are not looked into."""
    root = folder.resolve()
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted([*names, *folders]):
            path = Path(parent, name)
            wrong = wrong_name(path) or wrong_link(path, root) or _wrong_kind(path, name in folders)
            if wrong is not None:
                raise Unusable(f"{below(folder, path)} {wrong}")
            if name not in folders:
                yield path


def _wrong_kind(path: Path, is_folder: bool) -> str | None:
    """What is wrong with what lies there, by its name."""
    if is_folder:
        linked = path.is_symlink()
        return "is a link to a folder; put the files themselves there" if linked else None
    if path.suffix.lower() in PICKLES:
        return "may run code; delete it and use safetensors weights"
    if path.suffix.lower() in CODE:
        return "is code, which is never run; delete it"
    return None


def _model_index(folder: Path) -> dict[str, tuple[str, str]]:
    """The components that model_index.json names and that are read: folder → (library, class)."""
    content = read_json(folder, folder / "model_index.json")
    components: dict[str, tuple[str, str]] = {}
    for name, value in content.items():
        if name.startswith("_") or not isinstance(value, list) or value == [None, None]:
            continue
        if not _is_read(name, str(content.get("_class_name"))):
            continue
        if len(value) != 2 or not all(isinstance(part, str) for part in value):
            raise Unusable(f"{folder.name}/model_index.json: {name} is broken; download it again")
        if value[0] not in LIBRARIES:
            raise Unusable(
                f"{folder.name}/model_index.json: {name} is of {value[0]}, which is never run;"
                " use a model of diffusers' own pipelines"
            )
        components[name] = (value[0], value[1])
    if not isinstance(content.get("_class_name"), str) or not components:
        raise Unusable(f"{folder.name}/model_index.json names no pipeline; download it again")
    return components


def _is_read(name: str, pipeline: str) -> bool:
    """Whether a recipe reads that component of a pipeline of that class: FLUX.1 Redux looks at
    pictures, Stable Diffusion does not here. A folder may come without what is not read."""
    return name != _SAFETY_CHECKER and not (
        name in _SIGHT and pipeline.startswith("StableDiffusion")
    )


def _check_components(folder: Path, components: dict[str, tuple[str, str]]) -> None:
    for name in components:
        component = folder / name
        if name != Path(name).name or not component.is_dir():
            raise Unusable(f"{folder.name}/{name} is missing; download the whole model")
        configs = [config for config in COMPONENT_CONFIGS if (component / config).is_file()]
        if not configs:
            raise Unusable(f"{folder.name}/{name}/config.json is missing; download it again")
        for config in configs:
            read_json(folder, component / config)
        if "config.json" in configs:
            _check_weights(folder, component)


def _check_weights(folder: Path, component: Path) -> None:
    weights = sorted(component.glob("*.safetensors"))
    for index in component.glob("*.safetensors.index.json"):
        for part in _shards(folder, index):
            if component / part not in weights:
                raise Unusable(f"{below(folder, component / part)} is missing; download it again")
    weights = weights or sorted(component.glob("*.gguf"))
    if not weights:
        raise Unusable(f"{folder.name}/{component.name} has no .safetensors weights; add them")
    for path in weights:
        _check_file(folder, path)


def _shards(folder: Path, index: Path) -> list[str]:
    """The files beside it that an index names."""
    parts = read_json(folder, index).get("weight_map", {})
    names = list(parts.values()) if isinstance(parts, dict) else [None]
    if not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise Unusable(f"{below(folder, index)} is broken; download it again")
    return sorted({str(name) for name in names})


def _check_file(folder: Path, path: Path) -> None:
    if path.suffix == ".gguf":
        with path.open("rb") as file:
            if file.read(len(GGUF_MAGIC)) != GGUF_MAGIC:
                raise Unusable(f"{below(folder, path)} is no GGUF file; download it again")
        return
    try:
        read_header(path)
    except BadWeights as bad:
        raise Unusable(f"{below(folder, path)} {bad.problem}") from None


def _own_settings(folder: Path) -> dict[str, Any]:
    """What genserve.json says, if there is one."""
    path = folder / "genserve.json"
    if not path.is_file():
        return {}
    content = read_json(folder, path)
    numbers = {name: content.get(name) for name in ("native_pixels", "multiple_of")}
    buckets = _buckets(content.get("buckets", []))
    if buckets is None or not all(n is None or _is_size(n) for n in numbers.values()):
        raise Unusable(
            f"{folder.name}/genserve.json: native_pixels and multiple_of must be numbers and"
            " buckets a list of [width, height]"
        )
    return numbers | {"buckets": buckets}


def _buckets(value: Any) -> tuple[tuple[int, int], ...] | None:
    """The sizes as pairs; None when that is not what it is."""
    if not isinstance(value, list):
        return None
    if not all(isinstance(s, list) and len(s) == 2 and all(map(_is_size, s)) for s in value):
        return None
    return tuple((width, height) for width, height in value)


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0


def _revision(folder: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(os.fsencode(path.relative_to(folder)) + f" {size}\n".encode())
        if path.suffix == ".safetensors":
            digest.update(_header_bytes(path))
        elif size <= SMALL_FILE_BYTES:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _header_bytes(path: Path) -> bytes:
    try:
        return read_header(path).raw
    except BadWeights:  # not part of a component: never loaded
        return b""
