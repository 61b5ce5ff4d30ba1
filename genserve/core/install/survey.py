"""Everything that lies in the folders of models and LoRAs, with what is wrong with it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from genserve.config import Config
from genserve.core.catalog import Catalog
from genserve.core.install.choice import ALONE, INDEX
from genserve.core.install.graves import finish_removals, left_over
from genserve.core.install.staging import STAGE, unfinished
from genserve.core.inventory import ModelEntry
from genserve.domain.model import ModelSpec
from genserve.store.found_files import shown
from genserve.store.weights import (
    CODE,
    PICKLES,
    ModelFolder,
    scan_bare,
    scan_model,
    scan_part,
    scan_transformer,
)

TEXTS = frozenset({".md", ".txt"})
"""What may lie beside the models without being a model."""


class What(StrEnum):
    """What was found."""

    MODEL = "model"
    PART = "part"
    LORA = "lora"
    UNFINISHED = "unfinished"
    """A pull that was cut short, or still goes on."""
    STRAY = "stray"
    """A file that is of no use where it lies."""


@dataclass(frozen=True, slots=True)
class Found:
    """One thing in a folder. `used_by` are the models of the configuration that need it."""

    what: What
    name: str
    path: Path
    size_bytes: int
    used_by: tuple[str, ...] = ()
    problem: str | None = None


def survey(config: Config) -> list[Found]:
    """The models folder, then the LoRA folder. Raises `ConfigError`, `OSError`.

    What removals left that were killed is nobody's any more, and is deleted first.
    """
    finish_removals(config.models_dir / STAGE)
    catalog = Catalog(config)
    found = (*_models(config, catalog), *_unfinished(config), *_loras(config, catalog))
    return [
        replace(one, name=shown(one.name), problem=one.problem and shown(one.problem))
        for one in found
    ]


def size_of(path: Path) -> int:
    """What a file or a folder takes, in bytes; links are not followed."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())


def _models(config: Config, catalog: Catalog) -> Iterator[Found]:
    if not config.models_dir.is_dir():
        return
    entries = catalog.models()
    vaes = {vae.path: vae for vae in catalog.extras.vaes if vae.path.suffix in ALONE}
    for path in sorted(config.models_dir.iterdir()):
        if path.name.startswith("."):
            continue
        if path in vaes:
            problem = vaes[path].problem
            users = users_of(path.absolute(), entries)
            yield Found(What.PART, path.name, path, size_of(path), users, problem)
            continue
        if not path.is_dir():
            if path.suffix.lower() not in TEXTS:
                yield Found(What.STRAY, path.name, path, size_of(path), problem=_stray(path))
            continue
        users = users_of(path.absolute(), entries)
        what, scanned = scan_any(path)
        own = [entry for entry in entries if entry.spec.folder == path.absolute()]
        problem = next((entry.problem for entry in own), scanned.problem)
        if not scanned.present:
            problem = f"{path.name} is empty; remove it"
        yield Found(what, path.name, path, size_of(path), users, problem)


def scan_any(folder: Path) -> tuple[What, ModelFolder]:
    """Look into a folder that may be a model or a part of one, as its files suggest."""
    try:
        return _scan(folder)
    except OSError as error:
        problem = f"{folder.name} cannot be read: {os.strerror(error.errno or 0)}"
        return What.MODEL, ModelFolder(present=True, problem=problem)


def _scan(folder: Path) -> tuple[What, ModelFolder]:
    if (folder / INDEX).exists():
        return What.MODEL, scan_model(folder)
    if (folder / "config.json").exists():
        return What.PART, scan_part(folder)
    alone = [path for path in folder.iterdir() if path.suffix in ALONE]
    if len(alone) == 1:
        scan = scan_transformer if alone[0].suffix == ".gguf" else scan_bare
        return What.MODEL, scan(folder)
    return What.MODEL, scan_model(folder)


def users_of(folder: Path, entries: list[ModelEntry]) -> tuple[str, ...]:
    """The models that it is, or that name it: as their base, ControlNet, VAE, or in an option."""

    def needs(spec: ModelSpec) -> bool:
        named = {folder.parent / str(value) for value in spec.options.values()}
        return folder in {spec.folder, spec.base, spec.vae, *spec.controls.values(), *named}

    return tuple(entry.spec.id for entry in entries if needs(entry.spec))


def _stray(path: Path) -> str:
    if path.suffix.lower() in PICKLES:
        return f"{path.name} may run code; delete it and use safetensors weights"
    if path.suffix.lower() in CODE:
        return f"{path.name} is code, which is never run; delete it"
    if path.suffix in ALONE:
        return f"{path.name} lies beside the models; give it a folder of its own"
    return f"{path.name} is no model; move it away"


def _unfinished(config: Config) -> Iterator[Found]:
    for name, size in unfinished(config.models_dir):
        problem = f"the pull of {name} was cut short: pull it again to go on, or remove it"
        yield Found(What.UNFINISHED, name, config.models_dir / name, size, problem=problem)
    for path in left_over(config.models_dir / STAGE):
        problem = f"{path.name} was removed, but cannot be deleted; delete it by hand"
        yield Found(What.STRAY, path.name, path, size_of(path), problem=problem)


def _loras(config: Config, catalog: Catalog) -> Iterator[Found]:
    for lora in catalog.loras():
        path = config.loras_dir / lora.file_name
        yield Found(What.LORA, lora.name, path, lora.size_bytes, problem=lora.problem)
