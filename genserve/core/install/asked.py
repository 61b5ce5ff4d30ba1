"""What `models pull WHAT` means: an id of the configuration, a repository, or an address."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from genserve.config import SOURCE, Config, Model
from genserve.core.install.names import checked_name
from genserve.core.install.places import Places
from genserve.core.install.pull import Wanted
from genserve.errors import NoSource, UnknownModel
from genserve.outbound.hub import Hub, Source


@dataclass(frozen=True, slots=True)
class Asked:
    """What to fetch and where it goes. `wanted` is of the hub; None: the file at `address`.

    `model_id` is the model of the configuration that it becomes; None: it has none yet.
    """

    places: Places
    wanted: Wanted | None
    address: str | None = None
    model_id: str | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """`name` is what it is to be called here; `variant` which weights; `replace` what is there."""

    name: str | None = None
    variant: str | None = None
    replace: bool = False


def understand(config: Config, hub: Hub, what: str, options: Options) -> Asked:
    """Raises `UnknownModel`, `NoSource`, `BadModelName`."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", what):
        found = hub.find(what)
        if found is None:
            stem = PurePosixPath(unquote(urlsplit(what).path)).stem
            return _asked(config, options, stem, address=what)
        source, path = found
        return _of_hub(config, options, Wanted(source, path, options.variant))
    if "/" in what:
        if not re.fullmatch(SOURCE, what):
            checked_name(what)
        return _of_hub(config, options, Wanted(Source.parse(what), variant=options.variant))
    model = config.models.get(what)
    if model is None:
        raise UnknownModel(model=what, available=list(config.models))
    if model.source is None:
        raise NoSource(model=what)
    wanted = Wanted(Source.parse(model.source), variant=options.variant)
    return _asked(config, options, what, wanted=wanted)


def _of_hub(config: Config, options: Options, wanted: Wanted) -> Asked:
    """Called as the model of the configuration that comes from there, or else as the repository."""
    if wanted.path is not None:
        return _asked(config, options, PurePosixPath(wanted.path).stem, wanted=wanted)
    for model_id, model in config.models.items():
        if model.source and Source.parse(model.source).repository == wanted.source.repository:
            return _asked(config, options, model_id, wanted=wanted)
    return _asked(config, options, wanted.source.repository.partition("/")[2], wanted=wanted)


def _asked(
    config: Config,
    options: Options,
    default_name: str,
    *,
    wanted: Wanted | None = None,
    address: str | None = None,
) -> Asked:
    name = checked_name(options.name or default_name)
    model = config.models.get(name)
    places = Places(
        models_dir=config.models_dir,
        loras_dir=config.loras_dir,
        name=name,
        folder=None if model is None else config.models_dir / folder_of(name, model),
        replace=options.replace,
    )
    return Asked(places, wanted, address, name if model else None)


def folder_of(model_id: str, model: Model) -> Path:
    """Where a model of the configuration lies, below the models folder.

    One that is nothing but a ControlNet on a base lies where that ControlNet does.
    """
    if model.base is not None and len(model.controls) == 1:
        return Path(next(iter(model.controls.values())))
    return Path(model.folder or model_id)
