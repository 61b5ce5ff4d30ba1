"""One task where memory is short: what is tried, and what the answer says of it.

The child's own code in this process, on models that need as much memory as their options say.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from genserve.domain.model import Capabilities, ModelSpec, Offload
from genserve.domain.pool import Assignment
from genserve.domain.request import GenerationRequest, Mode, Value
from genserve.pipelines import peak_memory, registry
from genserve.pipelines.base import DeviceKind
from genserve.pipelines.fake import Fake, OutOfMemoryError
from genserve.pipelines.shelf import Shelf
from genserve.store.blobs import BlobStore
from genserve.workers.channel import Channel, ChildSettings
from genserve.workers.child import Child
from genserve.workers.messages import Done, Failed

CANARY = "a red circle"


class Tight(Fake):
    """Its options say what fits only when something else is out of the way.

    `load: alone`: it is read only with nothing else in memory. `control: outside` (or `alone`):
    its ControlNet is read only while its other networks wait outside. `draw: outside`: so it
    draws. `canary: never`: of its test picture's size it draws nothing.
    """

    children: ClassVar[list[Child]] = []
    read: ClassVar[list[str]] = []

    def load(self, spec: ModelSpec, device: DeviceKind, shelf: Shelf) -> None:
        self._needs, self._outside, self._controlled = spec.options, False, False
        self._demand("load")

    def lacking(self, request: GenerationRequest) -> dict[Path, Callable[[], object]]:
        return {} if self._controlled or "control" not in self._needs else {Path("c"): self._read}

    def _read(self) -> None:
        self._demand("control")
        self._controlled = True

    def generate(self, request: GenerationRequest, *given: Any) -> Image.Image:
        self._demand("canary" if request.prompt.startswith(CANARY) else "draw")
        return super().generate(request, *given)

    def _demand(self, what: str) -> None:
        self.read.append(what)
        loaded = self.children[-1]._residents.ids
        is_so = {"outside": self._outside, "alone": len(loaded) == (what != "load"), "never": False}
        if not is_so.get(str(self._needs.get(what)), True):
            raise OutOfMemoryError("CUDA out of memory.")

    @contextmanager
    def offloaded(self, how: Offload) -> Iterator[None]:
        self._outside = True
        yield
        self._outside = False


class Told(Channel):
    """A channel that keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[Value] = []

    def send(self, message: Value) -> None:
        self.sent.append(message)

    def poll(self) -> None:
        return None


class ChildUnderTest:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._told = Told()
        settings = ChildSettings(
            worker="gpu-0",
            fd=0,
            parent_pid=1,
            device="cuda",
            device_name="a GPU",
            threads=1,
            memory_bytes=10**9,
            run_folder=folder / "run",
        )
        self.child = Child(settings, self._told)
        Tight.children.append(self.child)

    def model(self, name: str = "a", family: str = "tight", **options: Any) -> ModelSpec:
        return ModelSpec(id=name, family=family, folder=self.folder / name, options=options)

    def task(self, spec: ModelSpec, **changes: Any) -> Assignment:
        values = {"model": spec.id, "prompt": "hello", "width": 64, "height": 64, "seed": 1}
        values |= {"steps": 1, "guidance": 3.5, "scheduler": "euler", **changes}
        return Assignment(
            task_id="task",
            attempt=1,
            token="token",
            epoch=1,
            request=GenerationRequest.model_validate(values),
            model=spec,
            time_limit_s=60,
            output_folder=str(self.folder / "blobs"),
        )

    def run(self, task: Assignment) -> list[str]:
        """What the answer says was done for lack of memory, or the error."""
        self.child._run(task)
        final = self._told.sent[-1]
        assert isinstance(final, Done | Failed)
        if isinstance(final, Failed):
            return [final.error.code]
        return [said.code for said in final.result.degraded]


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ChildUnderTest:
    monkeypatch.setitem(registry.FAMILIES, "tight", f"{__name__}:Tight")
    monkeypatch.setattr(Tight, "children", [])
    monkeypatch.setattr(Tight, "read", [])
    monkeypatch.setattr(peak_memory, "begin", lambda device: None)
    monkeypatch.setattr(peak_memory, "peak_bytes", lambda device: 0)
    return ChildUnderTest(tmp_path)


# A ControlNet


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ("nothing", []),
        ("alone", ["evicted_models"]),
        ("outside", ["evicted_models", "offloaded_networks"]),
        ("never", ["out_of_memory"]),
    ],
)
def test_a_controlnet_that_does_not_fit_climbs_the_ladder(
    child: ChildUnderTest, needs: str, expected: list[str]
):
    child.run(child.task(child.model("other")))
    steered = child.task(child.model(control=needs))
    assert child.run(steered) == expected
    assert child.child._residents.ids == (("other", "a") if not expected else ("a",))
    assert child.run(child.task(child.model("after"))) == []


def test_tiles_are_of_no_use_while_it_is_read_and_are_there_to_draw(child: ChildUnderTest):
    steered = child.model(control="outside", draw="outside")
    assert child.run(child.task(steered)) == ["offloaded_networks"]
    assert child.run(child.task(steered)) == ["vae_tiling", "offloaded_networks"]


# The canary


def test_a_canary_that_does_not_fit_waits_for_the_next_load(child: ChildUnderTest):
    records = child.folder / "run" / "canary"
    tight = child.model(canary="never")
    child.run(child.task(child.model("other", "fake")))
    assert child.run(child.task(tight)) == []
    assert child.child._residents.ids == ("other", "a"), "nobody made room for it"
    recorded = len(list(records.iterdir()))
    child.child._residents.unload("a")
    assert child.run(child.task(tight)) == []
    assert Tight.read.count("canary") == 2
    assert len(list(records.iterdir())) == recorded == 1


# What is said


def test_what_made_room_while_the_model_was_read_is_said_once(child: ChildUnderTest):
    child.run(child.task(child.model("other")))
    large = child.task(child.model(load="alone"))
    assert child.run(large) == ["evicted_models"]
    assert child.run(large) == []


def test_always_in_tiles_is_no_rung(child: ChildUnderTest):
    tiled = child.model(family="fake").model_copy(update={"vae_tiling": True})
    assert child.run(child.task(tiled, prompt="fake:oom=1")) == ["offloaded_networks"]


def test_what_was_done_for_the_control_map_is_said(child: ChildUnderTest):
    able = Capabilities(modes=(Mode.PREPROCESS,))
    tool = child.model("tool", draw="outside").model_copy(update={"capabilities": able})
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    blobs = BlobStore(child.folder / "blobs")
    sha256 = blobs.put(buffer.getvalue())
    photo = {"sha256": sha256, "media_type": "image/png", "width": 64, "height": 64}
    photo["size_bytes"] = len(buffer.getvalue())
    control = {"type": "depth", "preprocess": True}
    images = [{"file": photo, "role": "control", "control": control}]
    plain = child.task(child.model(family="fake"), mode="controlnet", images=images)
    given = {"preprocessor": tool, "inputs": {sha256: str(blobs.path(sha256))}}
    assert child.run(plain.model_copy(update=given)) == ["vae_tiling", "offloaded_networks"]
