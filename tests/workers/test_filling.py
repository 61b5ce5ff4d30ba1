"""A picture that is filled, through a worker: what is not to be filled is the caller's own."""

import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from genserve.domain.model import Capabilities
from genserve.domain.pool import TaskDone, WorkerState
from genserve.domain.request import Mode
from genserve.store.blobs import BlobStore
from tests.pipelines.conftest import tiny_spec
from tests.pipelines.diffusion_models import spec_of
from tests.pipelines.test_inputs import disc, photo
from tests.pipelines.tiny_diffusion import build_controlnet, build_sd15
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


async def end_of(
    pool: PoolUnderTest, pictures: dict[str, Image.Image], **asked: Any
) -> tuple[TaskDone, Image.Image]:
    """A task with these pictures, by role, and the picture that it made."""
    files = {role: stored(pool, picture) for role, picture in pictures.items()}
    images = [{"file": file, "role": role} for role, (file, _) in files.items()]
    assignment = pool.assignment("a red cat", images=images, **asked)
    inputs = {file["sha256"]: path for file, path in files.values()}
    assignment = assignment.model_copy(update={"inputs": inputs})
    info = await pool.until_state(WorkerState.IDLE)
    await pool.pool.submit(info.id, assignment)
    done = await pool.end_of(assignment)
    assert isinstance(done, TaskDone), done
    (drawn,) = done.result.images
    with Image.open(io.BytesIO(blob(assignment, drawn.sha256))) as answer:
        return done, answer.convert("RGB")


def assert_filled(answer: Image.Image, init: Image.Image, mask: Image.Image) -> None:
    """Different where the mask is white, and nowhere else."""
    changed, nothing = ImageChops.difference(answer, init).convert("L"), Image.new("L", init.size)
    assert max(Image.composite(nothing, changed, mask).tobytes()) == 0
    assert max(Image.composite(changed, nothing, mask).tobytes()) > 30


async def test_outside_of_the_mask_nothing_changes_in_an_enlarged_picture(start_pool: StartPool):
    """Drawn at 160 x 96 and enlarged to 384 x 256: the rest is not drawn at all."""
    pool = await start_pool(families=["flux"])
    init, mask = photo(SIZE), disc(SIZE)
    asked: dict[str, Any] = {"mode": "fill", "model": tiny_spec(), "steps": 2, "strength": 1.0}
    asked |= {"width": SIZE[0], "height": SIZE[1]}
    done, answer = await end_of(pool, {"init": init, "mask": mask}, **asked)
    assert (done.result.native_width, done.result.native_height) == (160, 96)
    assert_filled(answer, init, mask)


async def test_nor_where_it_is_filled_along_a_control_picture(
    start_pool: StartPool, tmp_path: Path
):
    folder = build_sd15(tmp_path / "sd15")
    able = Capabilities(modes=(Mode.CONTROLNET,), multiple_of=8)
    controls = {"canny": build_controlnet(tmp_path / "canny", folder)}
    model = spec_of(folder, "sd15", controls=controls, capabilities=able)
    pool = await start_pool(families=["sd15"])
    pictures = {"init": photo((64, 64)), "mask": disc((64, 64)), "control": photo((64, 64))}
    _, answer = await end_of(pool, pictures, mode="controlnet", model=model, strength=1.0)
    assert_filled(answer, pictures["init"], pictures["mask"])
