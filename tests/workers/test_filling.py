"""A picture that is filled, through a worker: what is not to be filled is the caller's own."""

import io
from typing import Any

from PIL import Image, ImageChops

from genserve.domain.pool import TaskDone, WorkerState
from genserve.store.blobs import BlobStore
from tests.pipelines.conftest import tiny_spec
from tests.pipelines.test_inputs import disc, photo
from tests.workers.conftest import PoolUnderTest, StartPool, blob

SIZE = (384, 256)


def stored(pool: PoolUnderTest, picture: Image.Image) -> tuple[dict[str, Any], str]:
    """A picture in the blob store: how a request names it, and its file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    blobs = BlobStore(pool.folder / "blobs")
    digest = blobs.put(buffer.getvalue())
    file = {"sha256": digest, "media_type": "image/png", "size_bytes": len(buffer.getvalue())}
    return file | {"width": picture.width, "height": picture.height}, str(blobs.path(digest))


async def test_outside_of_the_mask_nothing_changes_in_an_enlarged_picture(start_pool: StartPool):
    """Drawn at 160 x 96 and enlarged to 384 x 256: the rest is not drawn at all."""
    pool = await start_pool(families=["flux"])
    init, mask = photo(SIZE), disc(SIZE)
    files = {role: stored(pool, picture) for role, picture in (("init", init), ("mask", mask))}
    images = [{"file": file, "role": role} for role, (file, _) in files.items()]
    asked: dict[str, Any] = {"mode": "fill", "images": images, "model": tiny_spec()}
    asked |= {"width": SIZE[0], "height": SIZE[1], "steps": 2, "strength": 1.0}
    assignment = pool.assignment("a red cat", **asked)
    inputs = {file["sha256"]: path for file, path in files.values()}
    assignment = assignment.model_copy(update={"inputs": inputs})
    info = await pool.until_state(WorkerState.IDLE)
    await pool.pool.submit(info.id, assignment)
    done = await pool.end_of(assignment)
    assert isinstance(done, TaskDone), done
    (drawn,) = done.result.images
    assert (done.result.native_width, done.result.native_height) == (160, 96)
    with Image.open(io.BytesIO(blob(assignment, drawn.sha256))) as answer:
        changed = ImageChops.difference(answer.convert("RGB"), init).convert("L")
    outside = Image.composite(Image.new("L", SIZE), changed, mask)
    assert max(outside.tobytes()) == 0
    inside = Image.composite(changed, Image.new("L", SIZE), mask)
    assert max(inside.tobytes()) > 30
