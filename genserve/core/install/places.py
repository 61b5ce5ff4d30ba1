"""Where what is fetched goes, and what became of it."""

import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from genserve.core.install.choice import Kind
from genserve.core.install.names import checked_name
from genserve.errors import AlreadyInstalled


class Became(StrEnum):
    """What was installed."""

    MODEL = "model"
    PART = "part"
    """One network of a model, as a ControlNet."""
    CHECKPOINT = "checkpoint"
    """A model in one file."""
    LORA = "lora"


@dataclass(frozen=True, slots=True)
class Installed:
    """What was put where. `pipeline` is the class that model_index.json names, if it has one."""

    became: Became
    path: Path
    size_bytes: int
    pipeline: str | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """Where things go: `name` becomes a folder or a file, `folder` is another one for a model.

    `replace`: what is there already makes room.
    """

    models_dir: Path
    loras_dir: Path
    name: str
    folder: Path | None = None
    replace: bool = False

    @property
    def model(self) -> Path:
        """The model's folder. Raises `BadModelName`."""
        return self.folder or self.models_dir / checked_name(self.name)

    @property
    def lora(self) -> Path:
        """The LoRA's file. Raises `BadModelName`."""
        return self.loras_dir / f"{checked_name(self.name)}.safetensors"

    def refuse_taken(self, kind: Kind) -> None:
        """Before anything is fetched. Raises `AlreadyInstalled`, `BadModelName`."""
        taken = [self.model] if self.model.is_dir() and any(self.model.iterdir()) else []
        if kind is Kind.SINGLE and self.lora.exists():
            taken.append(self.lora)
        if taken and not self.replace:
            raise AlreadyInstalled(path=str(taken[0]))


def free_bytes(folder: Path) -> int:
    """The room on the disk of a folder that may be still to come."""
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free
