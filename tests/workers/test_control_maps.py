"""A photo becomes a control map in the worker, before the picture is drawn."""

import io
from typing import Any

import numpy
from PIL import Image, ImageDraw

from genserve.domain.model import Capabilities, ModelSpec
from genserve.domain.pool import (
    Assignment,
    TaskDone,
    TaskFailed,
    TaskLoading,
    TaskProgress,
    WorkerChanged,
    WorkerState,
)
from genserve.domain.request import ControlType, Mode
from genserve.store.blobs import BlobStore
from tests.workers.conftest import PoolUnderTest, StartPool, blob

SIDE = 64


def tool(pool: PoolUnderTest, family: str) -> ModelSpec:
    able = Capabilities(modes=(Mode.PREPROCESS,), control_types=(ControlType(family),))
    return ModelSpec(id=f"my {family}", family=family, folder=pool.folder, capabilities=able)


def photo() -> Image.Image:
    image = Image.new("RGB", (2 * SIDE, 2 * SIDE))
    ImageDraw.Draw(image).rectangle((32, 32, 96, 96), fill="white")
    return image


def controlled(pool: PoolUnderTest, preprocessor: ModelSpec | None, **asked: Any) -> Assignment:
    """A task whose control picture is the photo; the fake model mixes it into its gradient."""
    buffer = io.BytesIO()
    photo().save(buffer, "PNG")
    blobs = BlobStore(pool.folder / "blobs")
    sha256 = blobs.put(buffer.getvalue())
    file = {
        "sha256": sha256,
        "media_type": "image/png",
        "width": 2 * SIDE,
        "height": 2 * SIDE,
        "size_bytes": len(buffer.getvalue()),
    }
    control = {"type": "canny", "preprocess": preprocessor is not None}
    images = [{"file": file, "role": "control", "control": control}]
    assignment = pool.assignment(mode="controlnet", images=images, width=SIDE, height=SIDE, **asked)
    given = {"inputs": {sha256: str(blobs.path(sha256))}, "preprocessor": preprocessor}
    return assignment.model_copy(update=given)


async def end_of(pool: PoolUnderTest, assignment: Assignment) -> TaskDone | TaskFailed | Any:
    info = await pool.until_state(WorkerState.IDLE)
    await pool.pool.submit(info.id, assignment)
    return await pool.end_of(assignment)


async def drawn(pool: PoolUnderTest, assignment: Assignment) -> Any:
    """The picture's brightness: height x width."""
    done = await end_of(pool, assignment)
    assert isinstance(done, TaskDone), done
    (image,) = done.result.images
    return numpy.asarray(Image.open(io.BytesIO(blob(assignment, image.sha256))).convert("L"), int)


async def test_the_map_takes_the_photos_place(start_pool: StartPool) -> None:
    pool = await start_pool(families=["fake", "canny"])
    plain = await drawn(pool, controlled(pool, None, name="plain"))
    mapped = await drawn(pool, controlled(pool, tool(pool, "canny"), name="mapped"))
    edge, inside = SIDE // 4, SIDE // 2
    assert plain[inside, inside] > mapped[inside, inside] + 100, "white inside, as the photo"
    around = mapped[inside - 2 : inside + 3, edge - 2 : edge + 3]
    assert around.max() > mapped[inside, inside] + 100, "a white line, as the map"
    loaded = [event.model for event in pool.events if isinstance(event, TaskLoading)]
    assert loaded == ["fake", "my canny"], "the model was there already, the preprocessor was not"
    assert set(pool.worker().loaded) == {"fake", "my canny"}


async def test_what_it_takes_is_timed_and_its_steps_are_not_the_pictures(
    start_pool: StartPool,
) -> None:
    pool = await start_pool(families=["fake", "canny"])
    done = await end_of(pool, controlled(pool, tool(pool, "canny")))
    assert isinstance(done, TaskDone)
    assert {"input", "process", "denoise"} <= done.result.stages_s.keys()
    progress = [event for event in pool.events if isinstance(event, TaskProgress)]
    assert [(event.step, event.total) for event in progress] == [(n, 4) for n in range(1, 5)]


async def test_a_preprocessor_in_use_is_not_idle(start_pool: StartPool) -> None:
    pool = await start_pool(families=["fake", "canny"], idle_unload_s=2)
    canny = tool(pool, "canny")
    slow = controlled(pool, canny, prompt="fake:slow_step=0.1", steps=25)
    for task in (slow, controlled(pool, canny, name="at once")):
        assert isinstance(await end_of(pool, task), TaskDone)
    held = ["my canny" in e.worker.loaded for e in pool.events if isinstance(e, WorkerChanged)]
    assert held == sorted(held), "it was loaded, and stayed"
    assert held[-1]


async def test_a_preprocessor_that_cannot_be_loaded_is_named(start_pool: StartPool) -> None:
    pool = await start_pool(families=["fake"])
    ended = await end_of(pool, controlled(pool, tool(pool, "depth")))
    assert isinstance(ended, TaskFailed)
    assert ended.error.code == "model_broken"
    assert ended.error.params["model"] == "my depth"
    # The worker goes on.
    assert isinstance(await pool.run("afterwards"), TaskDone)


async def test_a_photo_that_is_gone_is_said(start_pool: StartPool) -> None:
    pool = await start_pool(families=["fake", "canny"])
    assignment = controlled(pool, tool(pool, "canny"))
    ended = await end_of(pool, assignment.model_copy(update={"inputs": {}}))
    assert isinstance(ended, TaskFailed)
    assert ended.error.code == "input_lost"
