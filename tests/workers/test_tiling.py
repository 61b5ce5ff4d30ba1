"""`vae_tiling` in a real worker process, on the shipped Flux model."""

from genserve.domain.model import ModelSpec
from genserve.domain.pool import TaskDone
from tests.pipelines.conftest import tiny_spec
from tests.workers.conftest import PoolUnderTest, StartPool

SIDE = 256
"""Pixels: the shipped VAE's tiles are of half that."""


async def drawn(pool: PoolUnderTest, name: str, spec: ModelSpec) -> str:
    """The picture's hash."""
    asked = {"model": spec, "steps": 1, "width": SIDE, "height": SIDE}
    done = await pool.run("a red cat", name=name, **asked)
    assert isinstance(done, TaskDone), done
    assert done.result.degraded == ()
    (image,) = done.result.images
    return image.sha256


async def test_a_model_may_always_decode_in_tiles(start_pool: StartPool):
    pool = await start_pool(families=["flux"])
    whole = tiny_spec(upscale=False)
    in_tiles = tiny_spec(upscale=False, vae_tiling=True)
    first = await drawn(pool, "first", whole)
    assert await drawn(pool, "tiled", in_tiles) != first
    assert await drawn(pool, "after", whole) == first, "it ends with the task"
