"""The rungs of the memory ladder, on a model that says what is done with it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from genserve.domain.model import ModelSpec, Offload
from genserve.pipelines import registry
from genserve.pipelines.cache import Residents
from genserve.pipelines.fake import Fake, OutOfMemoryError
from genserve.pipelines.ladder import Ladder, NoMemory
from genserve.workers.rungs import rungs

log: list[str] = []


class Movable(Fake):
    """A fake whose weights can wait outside; there may be no room to bring them back."""

    no_way_back = False
    in_use: tuple[Offload, ...] = ("model", "sequential")

    def offloaded(self, how: Offload) -> AbstractContextManager[None] | None:
        return self._waiting(how) if how in self.in_use else None

    @contextmanager
    def _waiting(self, how: Offload) -> Iterator[None]:
        log.append(f"+{how}")
        yield
        if self.no_way_back:
            raise OutOfMemoryError("CUDA out of memory.")
        log.append(f"-{how}")

    def unload(self) -> None:
        log.append("unloaded")


@pytest.fixture
def residents(monkeypatch: pytest.MonkeyPatch) -> Residents:
    log.clear()
    monkeypatch.setitem(registry.FAMILIES, "movable", f"{__name__}:Movable")
    return Residents("cpu", 10**9)


def spec(name: str) -> ModelSpec:
    return ModelSpec(id=name, family="movable", folder=Path("nowhere"))


def run(residents: Residents, failures: int) -> list[str]:
    """Which rungs were taken until the model drew."""
    pipeline = residents.load(spec("a"))
    tries = 0

    def draw() -> None:
        nonlocal tries
        tries += 1
        log.append("draw")
        if tries <= failures:
            raise OutOfMemoryError("CUDA out of memory.")

    with Ladder(rungs(residents, pipeline, "a")) as ladder:
        ladder.run(draw)
        return [taken.code for taken in ladder.taken]


def test_weights_leave_in_turn_and_come_back_in_turn(residents: Residents):
    codes = ["vae_tiling", "offloaded_networks", "offloaded_layers"]
    assert run(residents, 3) == codes
    assert log == ["draw", "draw", "+model", "draw", "+sequential", "draw", "-sequential", "-model"]
    assert residents.ids == ("a",)


def test_what_is_drawn_in_tiles_anyway_has_no_such_rung(residents: Residents):
    pipeline = residents.load(spec("a"))
    whole, in_tiles = (rungs(residents, pipeline, "a", in_tiles=tiled) for tiled in (False, True))
    assert [rung.code for rung in whole] == ["vae_tiling", *(rung.code for rung in in_tiles)]


def test_no_room_to_bring_weights_back_unloads_the_model(
    residents: Residents, monkeypatch: pytest.MonkeyPatch
):
    """The picture is drawn; only the next task pays, by reading the model again."""
    monkeypatch.setattr(Movable, "no_way_back", True)
    assert run(residents, 2) == ["vae_tiling", "offloaded_networks"]
    assert log[-1] == "unloaded"
    assert residents.ids == ()


def test_a_rung_of_no_use_is_passed_over(residents: Residents, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Movable, "in_use", ("sequential",))
    assert run(residents, 2) == ["vae_tiling", "offloaded_layers"]
    monkeypatch.setattr(Movable, "in_use", ())
    with pytest.raises(NoMemory):
        run(residents, 2)
