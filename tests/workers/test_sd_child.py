"""A Stable Diffusion model in a worker process: from an assignment to files."""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from genserve.domain.model import Capabilities
from genserve.domain.pool import TaskDone, TaskFailed, TaskLoading
from genserve.domain.request import GenerationRequest, Mode
from tests.pipelines.diffusion_models import spec_of
from tests.pipelines.tiny_diffusion import build_controlnet, build_sd15
from tests.workers.conftest import PoolUnderTest, StartPool, blob
from tests.workers.test_control_maps import controlled, end_of


async def test_a_checkpoint_draws_with_all_that_may_be_named(start_pool: StartPool, tmp_path: Path):
    folder = build_sd15(tmp_path / "sd15")
    spec = spec_of(
        folder,
        "sd15",
        controls={"canny": build_controlnet(tmp_path / "canny", folder)},
        vaes={"other": folder / "vae"},
        capabilities=Capabilities(modes=(Mode.TEXT2IMG, Mode.CONTROLNET), multiple_of=8),
    )
    asked: dict[str, Any] = {
        "model": spec,
        "width": 32,
        "height": 32,
        "steps": 3,
        "guidance": 5.0,
        "negative_prompt": "ugly, (blurry:1.2)",
        "scheduler": "dpmpp_2m",
        "sigmas": "karras",
        "clip_skip": 2,
        "vae": "other",
    }
    pool = await start_pool(families=["sd15"])
    done = await pool.run("a (red:1.3) cat", name="one", **asked)
    assert isinstance(done, TaskDone)
    assert text_of(pool, "one", done).startswith(
        "a (red:1.3) cat\nNegative prompt: ugly, (blurry:1.2)\n"
        "Steps: 3, Sampler: DPM++ 2M, CFG scale: 5, Seed: "
    )
    assert "Schedule type: Karras, Clip skip: 2, VAE: other" in text_of(pool, "one", done)
    again = await pool.run("a (red:1.3) cat", name="two", **asked)
    assert isinstance(again, TaskDone)
    assert again.result.images == done.result.images
    failed = await pool.run("(a:0.5) b " * 400, name="three", **asked)
    assert isinstance(failed, TaskFailed)
    assert failed.error.code == "prompt_too_complex"


async def test_a_controlnet_is_read_when_a_task_asks_for_it(start_pool: StartPool, tmp_path: Path):
    folder = build_sd15(tmp_path / "sd15")
    (tmp_path / "lame").mkdir()
    (tmp_path / "lame" / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    spec = spec_of(
        folder,
        "sd15",
        controls={
            "canny": build_controlnet(tmp_path / "canny", folder),
            "depth": tmp_path / "lame",
        },
        capabilities=Capabilities(modes=(Mode.TEXT2IMG, Mode.CONTROLNET), multiple_of=8),
    )
    pool = await start_pool(families=["sd15"])

    def loadings() -> int:
        return sum(isinstance(event, TaskLoading) for event in pool.events)

    assert isinstance(await pool.run("one", model=spec, width=64, height=64), TaskDone)
    assert loadings() == 1
    for name in ("first", "second"):  # it is read once
        done = await end_of(pool, controlled(pool, None, name=name, model=spec))
        assert isinstance(done, TaskDone)
        assert loadings() == 2
        assert (done.result.load_s > 0) is (name == "first")
    lame = controlled(pool, None, name="lame", model=spec)
    images = [image.model_dump() | {"control": {"type": "depth"}} for image in lame.request.images]
    request = GenerationRequest.model_validate(lame.request.model_dump() | {"images": images})
    failed = await end_of(pool, lame.model_copy(update={"request": request}))
    assert isinstance(failed, TaskFailed)
    assert failed.error.code == "model_broken"
    assert isinstance(await pool.run("two", model=spec, width=64, height=64), TaskDone)
    assert loadings() == 3


def text_of(pool: PoolUnderTest, name: str, done: TaskDone) -> str:
    (image,) = done.result.images
    with Image.open(io.BytesIO(blob(pool.assignment(name=name), image.sha256))) as opened:
        text: str = opened.info["parameters"]
        return text
