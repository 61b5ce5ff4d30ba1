"""The shipped Flux model in a worker process: from an assignment to files."""

import io
from typing import Any

from PIL import Image

from genserve.domain.pool import Assignment, TaskDone, TaskProgress, TaskStopped, WorkerState
from genserve.domain.task import Result
from genserve.store.blobs import BlobStore
from tests.pipelines.conftest import tiny_spec
from tests.workers.conftest import PoolUnderTest, StartPool, blob

ASKED: dict[str, Any] = {"model": tiny_spec(), "steps": 2, "width": 384, "height": 256}


async def drawn(pool: PoolUnderTest, name: str, **asked: object) -> Result:
    done = await pool.run("a red cat on a blue background", name=name, **ASKED, **asked)
    assert isinstance(done, TaskDone)
    return done.result


async def test_a_real_model_draws_enlarges_stops_and_starts_from_a_picture(start_pool: StartPool):
    pool = await start_pool(families=["flux"])
    together = await drawn(pool, "both", count=2)
    for image in together.images:
        data = blob(pool.assignment(name="both"), image.sha256)
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.size == (384, 256)
            assert "Native size: 160x96" in opened.info["parameters"]
            assert "Distilled CFG Scale: 3.5" in opened.info["parameters"]
    assert (together.native_width, together.native_height) == (160, 96)
    assert {"text", "denoise", "decode", "encode", "store"} <= together.stages_s.keys()

    # Each picture of a task is the one of its seed alone.
    alone = await drawn(pool, "alone", seed=8)
    assert alone.images == together.images[1:]

    # A task that was stopped half-way leaves nothing in the next one's picture.
    running = await pool.submit("a tree", name="long", **(ASKED | {"steps": 2000}))
    await pool.next(TaskProgress, lambda event: event.task_id == running.task_id)
    await pool.pool.cancel("cpu-0", running.task_id, 1)
    assert isinstance(await pool.end_of(running), TaskStopped)
    assert (await drawn(pool, "after", seed=8)).images == alone.images

    # From a picture.
    assignment = with_picture(pool, Image.linear_gradient("L"))
    info = await pool.until_state(WorkerState.IDLE)
    await pool.pool.submit(info.id, assignment)
    done = await pool.end_of(assignment)
    assert isinstance(done, TaskDone)
    (image,) = done.result.images
    with Image.open(io.BytesIO(blob(assignment, image.sha256))) as opened:
        assert opened.size == (384, 256)
        assert "compositeWithTrained" in opened.info["XML:com.adobe.xmp"]


def with_picture(pool: PoolUnderTest, picture: Image.Image) -> Assignment:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    blobs = BlobStore(pool.folder / "blobs")
    sha256 = blobs.put(buffer.getvalue())
    file = {
        "sha256": sha256,
        "media_type": "image/png",
        "width": picture.width,
        "height": picture.height,
        "size_bytes": len(buffer.getvalue()),
    }
    asked: dict[str, Any] = {"mode": "img2img", "strength": 0.5}
    asked["images"] = [{"file": file, "role": "init"}]
    assignment = pool.assignment("a lake", **ASKED, **asked)
    return assignment.model_copy(update={"inputs": {sha256: str(blobs.path(sha256))}})
