"""The configured models as they stand on disk: what is there, and what each one needs beside it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from genserve.config import Config, Model
from genserve.domain.model import Capabilities, Defaults, ModelSpec
from genserve.domain.request import ControlType, Mode
from genserve.domain.samplers import canonical_scheduler
from genserve.errors import ConfigError
from genserve.file_hashes import joined
from genserve.store import tool_weights
from genserve.store.extra_weights import (
    ExtraFile,
    problem_of_vae,
    scan_checkpoint,
    scan_controlnet,
    scan_embeddings,
    scan_vaes,
    stamp_of,
)
from genserve.store.found_files import unreadable_below
from genserve.store.weights import ModelFolder, is_pipeline, scan_model, scan_transformer

FAMILIES_WITHOUT_WEIGHTS = frozenset({"fake", "canny", "lanczos"})
FAMILIES_THAT_DO_NOT_DRAW = FAMILIES_WITHOUT_WEIGHTS | tool_weights.SCANS.keys()
"""Having one of them does not mean that a real model is installed."""
FAMILIES_OF_CHECKPOINTS = frozenset({"sd15", "sdxl", "sd3"})
"""Whose models may be a single file instead of a folder in diffusers' layout."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model of the configuration as it stands on disk.

    `served_by` is the id of the model that draws when this one is asked for; None: none can.
    `missing_controls` says of each ControlNet that cannot be used, why; `controls` are the folders
    of all. `stamp` changes whenever a file does of which the model is made without ControlNets.
    """

    spec: ModelSpec
    installed: bool
    problem: str | None
    served_by: str | None
    revision: str
    stamp: str
    controls: Mapping[ControlType, ModelFolder] = field(default_factory=dict)
    missing_controls: Mapping[ControlType, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Found:
    """What lies on disk for one model: its own folder, and its ControlNets'."""

    own: ModelFolder
    controls: Mapping[ControlType, ModelFolder]


@dataclass(frozen=True, slots=True)
class Extras:
    """Files that a request may name, for whichever model takes them; also those of no use."""

    vaes: tuple[ExtraFile, ...] = ()
    embeddings: tuple[ExtraFile, ...] = ()


def scan_extras(config: Config) -> Extras:
    """Looks for what some configured model takes. Raises `OSError`."""
    models = config.models.values()
    vaes = scan_vaes(config.models_dir) if any(model.vaes for model in models) else []
    words = (
        scan_embeddings(config.embeddings_dir) if any(model.embeddings for model in models) else []
    )
    return Extras(tuple(vaes), tuple(words))


def entries(config: Config, extras: Extras | None = None) -> dict[str, ModelEntry]:
    """Every configured model. `extras`: what `scan_extras` found, if that was asked already.

    Raises `ConfigError` where one names what is not there, `OSError`.
    """
    for model_id, model in config.models.items():
        _check_names(config, model_id, model)
    found = {model_id: _scanned(config, model_id) for model_id in config.models}
    found = {model_id: _on_base(config, model_id, found) for model_id in found}
    found = {model_id: _with_vae(config, model_id, folder) for model_id, folder in found.items()}
    stand_ins = {model.stand_in for model in config.models.values() if model.stand_in}
    real_ones = any(
        _usable(folder.own) and model_id not in stand_ins
        for model_id, folder in found.items()
        if config.models[model_id].family not in FAMILIES_THAT_DO_NOT_DRAW
    )
    extras = scan_extras(config) if extras is None else extras
    return {
        model_id: _entry(config, model_id, found, extras, stand_in_allowed=not real_ones)
        for model_id in config.models
    }


def _check_names(config: Config, model_id: str, model: Model) -> None:
    if model.stand_in and model.stand_in not in config.models:
        raise ConfigError(problem=f"models: the stand-in {model.stand_in} is not a model itself")
    if model.base is None:
        return
    base = config.models.get(model.base)
    if base is None:
        raise ConfigError(problem=f"models.{model_id}: the base {model.base} is not a model itself")
    if base.base is not None:
        raise ConfigError(
            problem=f"models.{model_id}: the base {model.base} has a base itself; name {base.base}"
        )
    if base.family != model.family:
        raise ConfigError(problem=f"models.{model_id}: its base is of another family")


def _folder(config: Config, model_id: str) -> Path:
    return (config.models_dir / (config.models[model_id].folder or model_id)).absolute()


def _scanned(config: Config, model_id: str) -> _Found:
    """A model's edge: what of it cannot be read is its problem, and the others keep serving."""
    try:
        return _looked_at(config, model_id)
    except OSError as error:
        name = _folder(config, model_id).name
        problem = unreadable_below(config.models_dir, error, otherwise=name)
        return _Found(ModelFolder(present=True, problem=problem), {})


def _looked_at(config: Config, model_id: str) -> _Found:
    """What lies on disk for a model, without what its base lends. Raises `OSError`."""
    model = config.models[model_id]
    if model.family in FAMILIES_WITHOUT_WEIGHTS:
        return _Found(ModelFolder(present=True), {})
    controls = {
        _control_type(model_id, name): scan_controlnet(config.models_dir / folder)
        for name, folder in model.controls.items()
    }
    folder = _folder(config, model_id)
    base = _folder(config, model.base) if model.base else None
    whole = is_pipeline(folder)
    if model.family in FAMILIES_OF_CHECKPOINTS and not whole and any(folder.glob("*.safetensors")):
        return _Found(scan_checkpoint(folder, model.family, base), controls)
    if model.base is not None and controls:  # its ControlNets are all that it is
        return _Found(min(controls.values(), key=_uselessness), controls)
    scan_tool = tool_weights.SCANS.get(model.family)
    if scan_tool is not None:
        return _Found(scan_tool(folder, model.options), {})
    if base is None:
        return _Found(scan_model(folder), controls)
    if whole:
        return _Found(scan_model(folder, base=base), {})
    return _Found(scan_transformer(folder), {})


def _uselessness(folder: ModelFolder) -> int:
    """Usable ones first, then the broken, whose problem is worth telling, then the absent."""
    return 0 if _usable(folder) else 1 if folder.present else 2


def _control_type(model_id: str, name: str) -> ControlType:
    try:
        return ControlType(name)
    except ValueError as error:
        raise ConfigError(problem=f"models.{model_id}: {error}") from None


def _on_base(config: Config, model_id: str, found: Mapping[str, _Found]) -> _Found:
    """With what the base lends; useless where the base cannot be used."""
    folder, base_id = found[model_id], config.models[model_id].base
    if base_id is None or not folder.own.present or folder.own.problem is not None:
        return folder
    base, shown = found[base_id].own, _folder(config, base_id).name
    if base.problem is not None:
        return replace(folder, own=replace(folder.own, problem=base.problem))
    if not base.present:
        problem = f"it adds to {base_id}, which is not installed; put that into models/{shown}"
        return replace(folder, own=replace(folder.own, problem=problem))
    lent = replace(
        folder.own,
        native_pixels=folder.own.native_pixels or base.native_pixels,
        buckets=folder.own.buckets or base.buckets,
        multiple_of=folder.own.multiple_of or base.multiple_of,
        revision=joined(folder.own.revision, base.revision),
        stamp=joined(folder.own.stamp, base.stamp),
    )
    return replace(folder, own=lent)


def _with_vae(config: Config, model_id: str, found: _Found) -> _Found:
    """With the VAE that the configuration puts in place of the folder's own; an edge as well."""
    name = config.models[model_id].vae
    if name is None or not _usable(found.own):
        return found
    path = config.models_dir / name
    try:
        problem = problem_of_vae(path, name)
    except OSError as error:
        problem = unreadable_below(config.models_dir, error, otherwise=name)
    stamp = joined(found.own.stamp, stamp_of(path))
    return replace(found, own=replace(found.own, problem=problem, stamp=stamp))


def _usable(folder: ModelFolder) -> bool:
    return folder.present and folder.problem is None


def _entry(
    config: Config,
    model_id: str,
    found: Mapping[str, _Found],
    extras: Extras,
    *,
    stand_in_allowed: bool,
) -> ModelEntry:
    model, folder = config.models[model_id], found[model_id]
    served_by = model_id if _usable(folder.own) else None
    if not folder.own.present and model.stand_in and stand_in_allowed:
        served_by = model.stand_in if _usable(found[model.stand_in].own) else None
    controls = [control.revision for control in folder.controls.values() if _usable(control)]
    return ModelEntry(
        spec=_spec(config, model_id, folder, extras),
        installed=_usable(folder.own),
        problem=folder.own.problem,
        served_by=served_by,
        revision=joined(folder.own.revision, *controls) if controls else folder.own.revision,
        stamp=folder.own.stamp,
        controls=folder.controls,
        missing_controls={
            control: part.problem or f"put it into models/{model.controls[control]}"
            for control, part in folder.controls.items()
            if not _usable(part)
        },
    )


def _spec(config: Config, model_id: str, found: _Found, extras: Extras) -> ModelSpec:
    model, folder = config.models[model_id], found.own
    vaes = extras.vaes if model.vaes else ()
    words = extras.embeddings if model.embeddings else ()
    beside: list[ModelFolder | ExtraFile] = [*found.controls.values(), *vaes, *words]
    return ModelSpec(
        id=model_id,
        family=model.family,
        folder=_folder(config, model_id),
        base=_folder(config, model.base) if model.base else None,
        controls={
            control: (config.models_dir / model.controls[control]).absolute()
            for control, part in found.controls.items()
            if _usable(part)
        },
        vae=(config.models_dir / model.vae).absolute() if model.vae else None,
        vaes=_usable_files(vaes),
        embeddings=_usable_files(words),
        description=model.description,
        capabilities=_capabilities(model_id, model, folder),
        defaults=Defaults(**model.defaults.model_dump(exclude_none=True)),
        stand_in=model.stand_in,
        upscale=model.upscale,
        native_pixels=model.native_pixels or folder.native_pixels,
        buckets=model.buckets or folder.buckets,
        dtype=model.dtype,
        quantization=model.quantization,
        offload=model.offload,
        vae_tiling=model.vae_tiling,
        options=model.options,
        stamp=joined(folder.stamp, *(one.stamp for one in beside)),
    )


def _usable_files(files: Iterable[ExtraFile]) -> dict[str, Path]:
    return {file.name: file.path.absolute() for file in files if file.problem is None}


def _capabilities(model_id: str, model: Model, folder: ModelFolder) -> Capabilities:
    try:
        return Capabilities(
            modes=tuple(Mode(mode) for mode in model.modes),
            control_types=tuple(ControlType(name) for name in model.control_types)
            or tuple(ControlType(name) for name in model.controls),
            # Without ControlNets the control picture is a part of the transformer's own input.
            control_weights=bool(model.controls) or model.family in FAMILIES_WITHOUT_WEIGHTS,
            schedulers=tuple(canonical_scheduler(name) for name in model.schedulers),
            sigmas=model.sigmas,
            clip_skip=model.clip_skip,
            vaes=model.vaes,
            loras=model.loras,
            lora_base=model.lora_base or model.family,
            negative_prompt=model.negative_prompt,
            multiple_of=folder.multiple_of or model.multiple_of,
            max_pixels=model.max_pixels,
        )
    except ValueError as error:
        raise ConfigError(problem=f"models.{model_id}: {error}") from None
