"""Takes a model, a LoRA or an unfinished pull out of its folder; anything else stays."""

from dataclasses import dataclass
from pathlib import Path

from genserve.config import Config
from genserve.core.catalog import Catalog
from genserve.core.install.asked import folder_of
from genserve.core.install.choice import ALONE, INDEX
from genserve.core.install.graves import bury
from genserve.core.install.names import checked_name
from genserve.core.install.staging import STAGE, open_staging
from genserve.core.install.survey import size_of, users_of
from genserve.errors import NotRemovable


@dataclass(frozen=True, slots=True)
class Removable:
    """What would be deleted. `model_ids` are the models of the configuration that need it.

    `others` are those of them that work now and were not named.
    """

    path: Path
    size_bytes: int
    model_ids: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def find(config: Config, name: str) -> Removable:
    """What the name means: a model of the configuration, a folder or a VAE's file among the models,
    a LoRA, an unfinished pull.

    Raises `BadModelName`, `NotRemovable`, `ConfigError`.
    """
    model = config.models.get(name)
    relative = folder_of(name, model) if model else Path(checked_name(name))
    folder = config.models_dir / relative
    if folder.is_symlink() or folder.exists():
        catalog = Catalog(config)
        vaes = {vae.path for vae in catalog.extras.vaes if vae.path.suffix in ALONE}
        if folder not in vaes or folder.is_symlink():
            _check(config.models_dir, folder)
        entries = catalog.models()
        users = users_of(folder.absolute(), entries)
        working = {entry.spec.id for entry in entries if entry.installed}
        others = tuple(user for user in users if user != name and user in working)
        return Removable(folder, size_of(folder), users, others)
    for path in (
        config.loras_dir / f"{name}.safetensors",
        config.models_dir / STAGE / name,
    ):
        if path.exists() and not path.is_symlink():
            return Removable(path, size_of(path))
    raise NotRemovable(path=str(folder), problem="there is nothing of that name")


def remove(config: Config, found: Removable) -> None:
    """Delete it. A folder vanishes at once and is deleted then.

    Raises `NotRemovable`, `PullInProgress`, `OSError`.
    """
    if found.path.parent == config.models_dir / STAGE:
        with open_staging(config.models_dir, found.path.name) as staging:
            staging.remove()
        return
    if found.path.is_file():
        found.path.unlink()
        return
    _check(config.models_dir, found.path)
    bury(found.path, config.models_dir / STAGE)


def _check(models_dir: Path, folder: Path) -> None:
    """Raises `NotRemovable` for what is no model's folder inside of the models folder."""

    def refuse(problem: str) -> NotRemovable:
        return NotRemovable(path=str(folder), problem=problem)

    if folder.is_symlink():
        raise refuse("it is a link; remove the link by hand")
    if not folder.is_dir():
        raise refuse("it is not a folder")
    root = models_dir.resolve()
    if not folder.resolve().is_relative_to(root) or folder.resolve() == root:
        raise refuse("it does not lie in the models folder")
    empty = not any(folder.iterdir())
    known = (folder / INDEX, folder / "config.json", folder / "genserve.json")
    if empty or any(path.exists() for path in known):
        return
    if not any(path.suffix in ALONE for path in folder.iterdir()):
        raise refuse("it does not look like a model; remove it by hand")
