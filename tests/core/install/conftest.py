"""A hub on loopback, and the folders that a pull fills."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from genserve.core.install.places import Installed, Places, free_bytes
from genserve.core.install.pull import Wanted, pull_from_hub
from genserve.outbound.hub import Source, open_hub
from genserve.outbound.transfer import Transfer
from tests.outbound.hub_server import HubServer, hub_server
from tests.outbound.repositories import settings


@pytest.fixture(autouse=True)
def nobodys_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may see this machine's own Hugging Face account."""
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub_server() as running:
        yield running


@dataclass
class Progress:
    """Keeps what a pull tells."""

    total: int = 0
    have: int = 0
    came: int = 0
    whole: list[str] = field(default_factory=list)

    def begin(self, total: int, have: int) -> None:
        self.total, self.have = total, have

    def advance(self, path: str, size: int | None, came: int) -> None:
        self.came += came

    def finished(self, path: str, size: int) -> None:
        self.whole.append(path)


@dataclass
class Puller:
    """Pulls from the hub into folders of this test."""

    server: HubServer
    folder: Path
    token: str | None = None
    room: int | None = None
    progress: Progress = field(default_factory=Progress)

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def loras(self) -> Path:
        return self.folder / "loras"

    @property
    def staging(self) -> Path:
        return self.models / ".pulls"

    def places(self, name: str = "m", **more: Any) -> Places:
        return Places(self.models, self.loras, name, **more)

    def __call__(
        self,
        repository: str = "someone/model",
        *,
        path: str | None = None,
        variant: str | None = None,
        **places: Any,
    ) -> Installed:
        self.progress = Progress()
        with open_hub(settings(self.server, self.token), command="pull it") as hub:
            return pull_from_hub(
                hub,
                Wanted(Source.parse(repository), path, variant),
                self.places(**places),
                Transfer(hub.client, free_bytes=lambda _: 10**12, first_pause_s=0.001),
                self.progress,
                room=free_bytes if self.room is None else lambda _: self.room or 0,
            )


@pytest.fixture
def pull(server: HubServer, tmp_path: Path) -> Puller:
    return Puller(server, tmp_path)


def content_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder that is not hidden, by its path there."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
    }
