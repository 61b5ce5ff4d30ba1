"""Running out of memory, fatal errors, and which models stay: all without a device."""

from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest
from genserve.errors import UnsupportedMode
from genserve.pipelines import canary, registry
from genserve.pipelines.base import BrokenModel
from genserve.pipelines.cache import Residents
from genserve.pipelines.fake import Fake, OutOfMemoryError
from genserve.pipelines.faults import Fault, classify
from genserve.pipelines.ladder import Ladder, NoMemory, Rung
from genserve.pipelines.shelf import Shelf
from genserve.pipelines.weighing import weights_bytes


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


# Told by words, as torch and the driver write them


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors"), "fatal"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "fatal"),
        (RuntimeError("CUDA error: unspecified launch failure"), "fatal"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "fatal"),
        (RuntimeError("CUDA error: misaligned address"), "fatal"),
        (RuntimeError("CUDA error: the launch timed out and was terminated"), "fatal"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "fatal"),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"), "fatal"),
        (RuntimeError("CUDA error: unknown error"), "fatal"),
        (caused(ValueError("x"), RuntimeError("CUDA error: unknown error")), "fatal"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"), "out_of_memory"),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "out_of_memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "out_of_memory",
        ),
        (MemoryError(), "out_of_memory"),
        (caused(RuntimeError("CUDA error: unknown error"), MemoryError()), "out_of_memory"),
        (RuntimeError("shape mismatch"), "ordinary"),
        (RuntimeError("CUDA error: invalid configuration argument"), "ordinary"),
        (ValueError("unknown error"), "ordinary"),
        (OSError("an illegal memory access, says a file"), "ordinary"),
    ],
)
def test_what_an_error_means(error: Exception, fault: str):
    assert classify(error) is Fault(fault)


def test_errors_that_cause_each_other_are_told_too():
    one, other = ValueError("a"), ValueError("b")
    one.__cause__, other.__cause__ = other, one
    assert classify(one) is Fault.ORDINARY


# The ladder


def rung(code: str, log: list[str], *, useful: bool = True) -> Rung:
    @contextmanager
    def held() -> Any:
        log.append(f"+{code}")
        yield
        log.append(f"-{code}")

    return Rung(code, "", held if useful else lambda: None)


def drawing(failures: int, log: list[str]) -> Any:
    def draw() -> str:
        log.append("draw")
        if log.count("draw") <= failures:
            raise OutOfMemoryError("CUDA out of memory.")
        return "picture"

    return draw


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        (0, ["draw"]),
        (1, ["draw", "+a", "draw", "-a"]),
        (2, ["draw", "+a", "draw", "+c", "draw", "-c", "-a"]),
    ],
)
def test_each_rung_is_tried_and_given_back(failures: int, expected: list[str]):
    log: list[str] = []
    with Ladder([rung("a", log), rung("b", log, useful=False), rung("c", log)]) as ladder:
        assert ladder.run(drawing(failures, log)) == "picture"
        assert [taken.code for taken in ladder.taken] == ["a", "c"][:failures]
    assert log == expected


def test_below_the_last_rung_there_is_nothing():
    log: list[str] = []
    with Ladder([rung("a", log)]) as ladder, pytest.raises(NoMemory):
        ladder.run(drawing(2, log))
    assert log == ["draw", "+a", "draw", "-a"]


def test_rungs_that_would_not_help_are_left_for_later():
    log: list[str] = []
    with Ladder([rung("a", log), rung("b", log)]) as ladder:
        ladder.run(drawing(1, log), useless=["a"])
        assert log == ["draw", "+b", "draw"]
        ladder.run(drawing(3, log))
        assert log == ["draw", "+b", "draw", "draw", "+a", "draw"]


def test_other_errors_are_not_the_ladders():
    def draw() -> str:
        raise ValueError("no memory problem")

    with Ladder([Rung("a", "", nullcontext)]) as ladder, pytest.raises(ValueError):
        ladder.run(draw)
    assert ladder.taken == ()


# Resident models


def spec(folder: Path, name: str, size: int = 0, on_disk: int = 0, **options: Any) -> ModelSpec:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "w.safetensors").write_bytes(bytes(on_disk))
    options["size_bytes"] = size
    return ModelSpec(id=name, family="fake", folder=folder / name, options=options)


def test_the_least_recently_used_makes_room_for_what_is_to_come(tmp_path: Path):
    residents = Residents("cpu", 100)
    a, b = spec(tmp_path, "a", 40), spec(tmp_path, "b", 40)
    residents.load(a)
    residents.load(b)
    assert residents.find(a) is not None
    residents.load(spec(tmp_path, "c", 40, on_disk=40))
    assert residents.ids == ("a", "c")
    assert residents.find(b) is None
    assert residents.evictions == 0, "that is how the budget is kept, and no lack of memory"


def test_one_that_fits_beside_nothing_is_loaded_alone(tmp_path: Path):
    residents = Residents("cpu", 100)
    residents.load(spec(tmp_path, "a", 40))
    big = spec(tmp_path, "big", 500, on_disk=500)
    residents.load(big)
    assert residents.ids == ("big",)
    assert weights_bytes(big, Shelf()) == 500


def test_a_model_that_runs_out_of_memory_beside_others_is_tried_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Tight(Fake):
        """Fits only when nothing else is there."""

        def load(self, spec: ModelSpec, device: Any, shelf: Shelf) -> None:
            if residents.ids:
                raise OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setitem(globals(), "Tight", Tight)
    monkeypatch.setitem(registry.FAMILIES, "tight", f"{__name__}:Tight")
    residents = Residents("cpu", 100)
    residents.load(spec(tmp_path, "a"))
    residents.load(spec(tmp_path, "b").model_copy(update={"family": "tight"}))
    assert (residents.ids, residents.evictions) == (("b",), 1)
    # Its own former self makes room too, which is no other model.
    changed = spec(tmp_path, "b").model_copy(update={"family": "tight", "stamp": "another"})
    residents.load(changed)
    assert (residents.ids, residents.evictions) == (("b",), 1)


class Large(Fake):
    """Fits only when its weights wait as `options: {fits: …}` says."""

    tried: ClassVar[list[str]] = []

    def load(self, spec: ModelSpec, device: Any, shelf: Shelf) -> None:
        self.tried.append(spec.offload)
        if spec.offload != spec.options["fits"]:
            raise OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(
    ("device", "configured", "fits", "tried", "code"),
    [
        ("cuda", "none", "none", ["none"], None),
        ("cuda", "none", "model", ["none", "model"], "offloaded_networks"),
        ("cuda", "none", "sequential", ["none", "model", "sequential"], "offloaded_layers"),
        ("cuda", "none", "never", ["none", "model", "sequential"], "out of memory"),
        ("cuda", "model", "sequential", ["model"], "out of memory"),
        ("cpu", "none", "model", ["none"], "out of memory"),
    ],
)
def test_a_model_that_does_not_fit_alone_waits_in_cpu_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: Any,
    configured: str,
    fits: str,
    tried: list[str],
    code: str | None,
):
    monkeypatch.setitem(registry.FAMILIES, "large", f"{__name__}:Large")
    monkeypatch.setattr(Large, "tried", [])
    large = spec(tmp_path, "a", fits=fits).model_copy(
        update={"family": "large", "offload": configured}
    )
    residents = Residents(device, 100)
    if code == "out of memory":
        with pytest.raises(OutOfMemoryError):
            residents.load(large)
        assert residents.ids == ()
    else:
        residents.load(large)
        assert residents.ids == ("a",)
        assert [said.code for said in residents.degraded("a")] == ([code] if code else [])
    assert Large.tried == tried


def test_gguf_is_not_taken_apart_layer_by_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(registry.FAMILIES, "large", f"{__name__}:Large")
    monkeypatch.setattr(Large, "tried", [])
    large = spec(tmp_path, "a", fits="sequential").model_copy(update={"family": "large"})
    (tmp_path / "a" / "w.safetensors").rename(tmp_path / "a" / "w.gguf")
    with pytest.raises(OutOfMemoryError):
        Residents("cuda", 100).load(large)
    assert Large.tried == ["none", "model"]


def test_when_it_is_known_what_a_model_takes_others_make_room_after_all(tmp_path: Path):
    residents = Residents("cpu", 100)
    for name in ("a", "b"):
        residents.load(spec(tmp_path, name, 60, on_disk=10))
    assert residents.ids == ("b",)


def test_a_model_whose_files_have_changed_is_loaded_anew(tmp_path: Path):
    residents = Residents("cpu", 100)
    old, other = spec(tmp_path, "a", 40, on_disk=40), spec(tmp_path, "b", 40)
    new = old.model_copy(update={"stamp": "another"})
    first = residents.load(old)
    residents.load(other)
    assert residents.find(new) is None
    assert residents.find(old) is first
    second = residents.load(new)
    assert residents.ids == ("b", "a")  # not b made room, but the old a, although used last
    assert residents.find(old) is None
    assert residents.find(new) is second is not first


def test_evicting_tells_whether_there_was_anything(tmp_path: Path):
    residents = Residents("cpu", 100)
    for name in "ab":
        residents.load(spec(tmp_path, name))
    assert residents.evict_others("b")
    assert not residents.evict_others("b")
    assert residents.ids == ("b",)


def test_a_family_that_is_not_there_is_told():
    with pytest.raises(BrokenModel):
        registry.make("no such family")


# The canary


def test_a_canary_is_recorded_once_and_compared_after_restarts(tmp_path: Path):
    model, place = spec(tmp_path, "a"), tmp_path / "canary"
    canary.check(Fake(), model, restarted=False, folder=place, device="CPU")
    (file,) = place.iterdir()
    canary.check(Fake(), model, restarted=True, folder=place, device="CPU")
    file.write_text(file.read_text().replace('"sha256": "', '"sha256": "0'))
    canary.check(Fake(), model, restarted=False, folder=place, device="CPU")
    with pytest.raises(canary.CanaryMismatch):
        canary.check(Fake(), model, restarted=True, folder=place, device="CPU")


def test_other_weights_or_devices_have_a_canary_of_their_own(tmp_path: Path):
    place = tmp_path / "canary"
    for on_disk, device in ((1, "CPU"), (2, "CPU"), (2, "GPU")):
        model = spec(tmp_path, "a", on_disk=on_disk)
        canary.check(Fake(), model, folder=place, device=device, restarted=True)
    assert len(list(place.iterdir())) == 3


def test_a_model_that_is_configured_otherwise_has_a_canary_of_its_own(tmp_path: Path):
    model, place = spec(tmp_path, "a"), tmp_path / "canary"
    for changes in ({}, {"buckets": ((64, 32),)}, {"dtype": "float16"}):
        other = model.model_copy(update=changes)
        canary.check(Fake(), other, folder=place, device="CPU", restarted=True)
    assert len(list(place.iterdir())) == 3


class Tiling(Fake):
    """Draws something else in tiles."""

    tiled = 0

    @contextmanager
    def low_memory(self) -> Any:
        self.tiled += 1
        yield


def test_a_model_that_always_draws_in_tiles_has_a_canary_in_tiles(tmp_path: Path):
    model, place, pipeline = spec(tmp_path, "a"), tmp_path / "canary", Tiling()
    for in_tiles in (False, True):
        other = model.model_copy(update={"vae_tiling": in_tiles})
        canary.check(pipeline, other, folder=place, device="CPU", restarted=True)
        assert pipeline.tiled == in_tiles
    assert len(list(place.iterdir())) == 2


def test_a_canary_that_cannot_be_recorded_costs_nothing_else(tmp_path: Path):
    model, place = spec(tmp_path, "a"), tmp_path / "canary"
    place.write_text("a file where the folder should be")
    canary.check(Fake(), model, folder=place, device="CPU", restarted=True)


class FillsOnly(Fake):
    """As an inpainting checkpoint under an entry that promises more."""

    def generate(self, request: GenerationRequest, *_: Any) -> Image.Image:
        raise UnsupportedMode(model=request.model, mode=request.mode, supported=["fill"])


def test_a_model_that_cannot_draw_from_text_after_all_has_no_canary(tmp_path: Path):
    model, place = spec(tmp_path, "a"), tmp_path / "canary"
    for restarted in (False, True):
        canary.check(FillsOnly(), model, restarted=restarted, folder=place, device="CPU")
    assert not place.exists()


def test_a_damaged_record_is_made_again(tmp_path: Path):
    model, place = spec(tmp_path, "a"), tmp_path / "canary"
    canary.check(Fake(), model, restarted=False, folder=place, device="CPU")
    (file,) = place.iterdir()
    file.write_text("{")
    canary.check(Fake(), model, restarted=True, folder=place, device="CPU")
    assert "sha256" in file.read_text()
