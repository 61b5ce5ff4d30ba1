"""LoRAs in a real worker process, on the shipped Flux model."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from genserve.domain.lora import LoraSource
from genserve.domain.pool import (
    TaskDone,
    TaskFailed,
    TaskProgress,
    TaskStopped,
    WorkerState,
    WorkerUp,
)
from genserve.domain.request import LoraRef
from genserve.domain.task import Result
from tests.pipelines import loras
from tests.pipelines.conftest import TINY, tiny_spec
from tests.workers.conftest import PoolUnderTest, StartPool, blob

SPEC = tiny_spec()
ASKED: dict[str, Any] = {"model": SPEC, "steps": 2, "width": 64, "height": 64}
WIDTH = 160


@pytest.fixture
def files(tmp_path: Path) -> dict[str, LoraSource]:
    """Two LoRAs of all the transformer's attention, one with a part for a third text encoder."""
    weights = TINY / "transformer" / "diffusion_pytorch_model.safetensors"
    with safe_open(weights, framework="pt") as file:
        layers = [name.removesuffix(".weight") for name in file.keys() if ".to_q.w" in name]  # noqa: SIM118
    made = {}
    for number, name in enumerate(("night", "outlined")):
        by, tensors = loras.chance(number), {}
        for layer in layers:
            tensors[f"transformer.{layer}.lora_A.weight"] = loras.randn(4, WIDTH, by=by)
            tensors[f"transformer.{layer}.lora_B.weight"] = loras.randn(WIDTH, 4, by=by)
        if name == "outlined":
            tensors["text_encoder_3.x.lora_A.weight"] = torch.ones(2, 4)
            tensors["text_encoder_3.x.lora_B.weight"] = torch.ones(4, 2)
        made[name] = loras.write(tmp_path / f"{name}.safetensors", tensors)
    return made


async def run(
    pool: PoolUnderTest, name: str, files: dict[str, LoraSource], **weights: float
) -> TaskDone | TaskFailed | TaskStopped:
    asked = [LoraRef(name=lora, weight=weight) for lora, weight in weights.items()]
    assignment = pool.assignment("a red cat", name=name, loras=asked, **ASKED)
    assignment = assignment.model_copy(update={"loras": files})
    info = await pool.until_state(WorkerState.IDLE)
    await pool.pool.submit(info.id, assignment)
    return await pool.end_of(assignment)


async def drawn(
    pool: PoolUnderTest, name: str, files: dict[str, LoraSource], **weights: float
) -> Result:
    done = await run(pool, name, files, **weights)
    assert isinstance(done, TaskDone), done
    return done.result


def said(pool: PoolUnderTest, result: Result) -> str:
    (image,) = result.images
    with Image.open(io.BytesIO(blob(pool.assignment(), image.sha256))) as opened:
        return str(opened.info["parameters"])


async def test_loras_change_the_picture_and_leave_nothing_behind(
    start_pool: StartPool, files: dict[str, LoraSource]
):
    pool = await start_pool(families=["flux"])
    plain = await drawn(pool, "plain", files)
    assert pool.worker().lora_keys == {}
    night = await drawn(pool, "night", files, night=0.8)
    assert night.images != plain.images
    assert pool.worker().lora_keys == {SPEC.id: "night:0.8:None"}
    assert night.stages_s["loras"] > 0

    # Worn twice is worn once, and the next task without gets what the first one got.
    assert (await drawn(pool, "again", files, night=0.8)).images == night.images
    assert (await drawn(pool, "off", files)).images == plain.images
    assert pool.worker().lora_keys == {}

    both = await drawn(pool, "both", files, night=0.8, outlined=-0.5)
    assert both.images not in (plain.images, night.images)
    (left_out,) = both.degraded
    assert left_out.detail == "outlined: its layers for text_encoder_3 (1) were left out."

    lines = said(pool, both).split("\n")
    assert lines[0] == "a red cat <lora:night:0.8> <lora:outlined:-0.5>"
    hashes = ", ".join(f"{name}: {files[name].sha256[:10]}" for name in ("night", "outlined"))
    assert f'Lora hashes: "{hashes}"' in lines[-1]
    assert "<lora:" not in said(pool, plain)


async def test_a_lora_that_does_not_fit_fails_its_task_and_no_other(
    start_pool: StartPool, files: dict[str, LoraSource], tmp_path: Path
):
    pool = await start_pool(families=["flux"])
    plain = await drawn(pool, "plain", files)
    by, layer = loras.chance(), "transformer.transformer_blocks.0.attn.to_q"
    wide = loras.write(
        tmp_path / "wide.safetensors",
        {
            f"{layer}.lora_A.weight": loras.randn(4, 3072, by=by),
            f"{layer}.lora_B.weight": loras.randn(3072, 4, by=by),
        },
    )
    failed = await run(pool, "wide", files | {"wide": wide}, night=0.5, wide=1.0)
    assert isinstance(failed, TaskFailed)
    assert not failed.crashed
    assert failed.error.code == "lora_does_not_fit"
    assert failed.error.params == {
        "lora": "wide",
        "model": SPEC.id,
        "reason": f"{layer}.lora_A.weight makes a change of 3072x3072, but its layer is 160x160",
    }
    assert (await drawn(pool, "after", files)).images == plain.images


async def test_what_was_stopped_while_it_wore_something_leaves_nothing(
    start_pool: StartPool, files: dict[str, LoraSource]
):
    pool = await start_pool(families=["flux"])
    plain = await drawn(pool, "plain", files)
    asked = {**ASKED, "steps": 2000, "loras": [LoraRef(name="night")]}
    running = pool.assignment("a tree", name="long", **asked)
    running = running.model_copy(update={"loras": files})
    info = await pool.until_state(WorkerState.IDLE)
    await pool.pool.submit(info.id, running)
    await pool.next(TaskProgress, lambda event: event.task_id == running.task_id)
    await pool.pool.cancel(info.id, running.task_id, 1)
    assert isinstance(await pool.end_of(running), TaskStopped)
    assert (await drawn(pool, "after", files)).images == plain.images


async def test_two_models_that_share_networks_do_not_wear_each_others_loras(
    start_pool: StartPool, files: dict[str, LoraSource]
):
    """The second is read while the first wears something: its canary and its pictures are plain."""
    pool = await start_pool(families=["flux"])
    plain = await drawn(pool, "plain", files)
    await drawn(pool, "night", files, night=1.0)
    assert pixels(pool, await by_twin(pool, "twin")) == pixels(pool, plain)
    worker = pool.worker()
    assert sorted(worker.loaded) == sorted([SPEC.id, "twin"])
    # What the first one wore was taken off with the shared networks.
    assert worker.lora_keys.get(SPEC.id) != "night:1.0:None"
    assert (await drawn(pool, "after", files)).images == plain.images

    # A new process draws the second one's canary anew: the recorded one wore nothing either.
    await pool.pool.kill(worker.id)
    await pool.next(WorkerUp, lambda event: event.worker.pid != worker.pid)
    assert pixels(pool, await by_twin(pool, "twin again")) == pixels(pool, plain)


async def by_twin(pool: PoolUnderTest, name: str) -> Result:
    """The same task, drawn by another model that is made of the same files."""
    twin = SPEC.model_copy(update={"id": "twin"})
    assignment = pool.assignment("a red cat", name=name, **(ASKED | {"model": twin}))
    info = await pool.until_state(WorkerState.IDLE)
    await pool.pool.submit(info.id, assignment)
    done = await pool.end_of(assignment)
    assert isinstance(done, TaskDone), done
    return done.result


def pixels(pool: PoolUnderTest, result: Result) -> bytes:
    (image,) = result.images
    with Image.open(io.BytesIO(blob(pool.assignment(), image.sha256))) as opened:
        return opened.tobytes()
