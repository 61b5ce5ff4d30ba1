"""LoRAs on the way from a request to a worker: what is refused, what is given out, and to whom."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from genserve.config import Config
from genserve.core.catalog import Catalog
from genserve.core.policy import Warmth, warm_key, warmth
from genserve.core.runtime import Runtime
from genserve.domain.pool import WorkerInfo, WorkerState
from genserve.domain.request import MAX_LORAS, GenerationRequest, LoraRef
from genserve.domain.task import Task, TaskState
from genserve.errors import (
    DuplicateLora,
    LoraBroken,
    LoraDoesNotFit,
    LoraOfAnotherFamily,
    UnknownLora,
    UnsupportedLora,
)
from tests.core.conftest import Start, asks, caller
from tests.store.tensors import safetensors

FLUX = "transformer.single_transformer_blocks.0.attn.to_q"
SD15 = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
MODELS: dict[str, dict[str, Any]] = {
    "painter": {"family": "fake", "loras": True, "lora_base": "flux", "stand_in": "small"},
    "small": {"family": "fake", "loras": True, "lora_base": "flux"},
    "plain": {"family": "fake"},
    "packed": {"family": "fake", "loras": True, "lora_base": "flux", "quantization": "nf4"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """LoRAs of two families, one that says nothing, and files that are none."""
    loras = tmp_path / "loras"
    for name, layer, down, up in (
        ("night_style", SD15, "lora_down", "lora_up"),
        ("outlined", FLUX, "lora_A", "lora_B"),
        ("silent", "lora_unet_x", "lora_down", "lora_up"),
    ):
        shapes = {f"{layer}.{down}.weight": (4, 768), f"{layer}.{up}.weight": (320, 4)}
        safetensors(loras / f"{name}.safetensors", shapes)
    (loras / "pickled.ckpt").write_bytes(b"pickle")
    whole = (loras / "outlined.safetensors").read_bytes()
    (loras / "short.safetensors").write_bytes(whole[:-4])
    return tmp_path


def catalog(folder: Path) -> Catalog:
    settings = {"data_dir": folder / "data", "loras_dir": folder / "loras", "models": MODELS}
    return Catalog(Config.model_validate(settings))


def named(*names: str, model: str = "small") -> GenerationRequest:
    return asks(model=model, loras=[LoraRef(name=name) for name in names])


@pytest.mark.parametrize(
    ("request_", "error", "told"),
    [
        (named("gone"), UnknownLora, "no LoRA gone. Available: night_style, outlined, silent."),
        (named("../outlined"), UnknownLora, "no LoRA ../outlined"),
        (named("pickled"), LoraBroken, "pickled.ckpt may run code; convert it to safetensors"),
        (named("short"), LoraBroken, "short.safetensors is incomplete: 4 bytes are missing"),
        (
            named("night_style"),
            LoraOfAnotherFamily,
            "night_style was made for sd15; small takes flux LoRAs",
        ),
        (named("outlined", "outlined"), DuplicateLora, "outlined is named more than once"),
        (named("outlined", model="plain"), UnsupportedLora, "plain does not take LoRAs"),
        (
            named("outlined", model="packed"),
            LoraDoesNotFit,
            "does not fit packed: it keeps its weights in nf4",
        ),
    ],
)
def test_loras_that_do_not_fit_are_refused(
    folder: Path, request_: GenerationRequest, error: type[Exception], told: str
):
    with pytest.raises(error) as refused:
        catalog(folder).check(request_)
    assert told in str(refused.value)


def test_loras_that_fit_pass_with_their_files(folder: Path):
    found = catalog(folder)
    both = named("outlined", "silent")
    found.check(both)
    sources = found.lora_sources(both)
    assert {name: Path(source.path).name for name, source in sources.items()} == {
        "outlined": "outlined.safetensors",
        "silent": "silent.safetensors",
    }


def test_the_family_is_the_models_own_where_nothing_else_is_said(folder: Path):
    assert catalog(folder).entry("plain").spec.capabilities.lora_base == "fake"


def test_a_request_has_so_many_loras_and_no_more():
    many = [LoraRef(name=f"n{number}") for number in range(MAX_LORAS + 1)]
    asks(loras=many[:-1])
    with pytest.raises(ValueError, match="loras"):
        asks(loras=many)


@pytest.mark.parametrize("weight", [10.5, -10.5, float("nan"), float("inf")])
def test_weights_have_limits_on_both_sides(weight: float):
    LoraRef(name="x", weight=-10)
    with pytest.raises(ValueError, match="weight"):
        LoraRef(name="x", weight=weight)


# Who wears what


def test_the_key_of_a_set_is_the_same_for_what_comes_to_the_same():
    one, two = LoraRef(name="a", weight=0.5), LoraRef(name="b", text_weight=0.0)
    off = LoraRef(name="c", weight=0.0)
    assert asks(loras=[one, two]).lora_key == asks(loras=[two, off, one]).lora_key
    assert asks(loras=[off]).lora_key == asks().lora_key == ""
    assert asks(loras=[one]).lora_key != asks(loras=[LoraRef(name="a", weight=0.50001)]).lora_key


def test_a_worker_that_wears_the_set_is_warmer_than_one_that_wears_another():
    key = asks(loras=[LoraRef(name="a")]).lora_key
    worker = WorkerInfo(
        id="w",
        device="cpu",
        state=WorkerState.IDLE,
        loaded=("one", "other"),
        lora_keys={"one": key},
    )
    assert warmth(warm_key("one", key), worker) is Warmth.LORAS_APPLIED
    assert warmth(warm_key("one", ""), worker) is Warmth.MODEL_LOADED
    assert warmth(warm_key("other", ""), worker) is Warmth.LORAS_APPLIED
    assert warmth(warm_key("other", key), worker) is Warmth.MODEL_LOADED
    assert warmth(warm_key("third", ""), worker) is Warmth.COLD


# Through the queue


async def ended(runtime: Runtime, request: GenerationRequest) -> Task:
    submitted = await runtime.service.submit(caller(runtime), request, dialect="native")
    async with asyncio.timeout(60):
        return await runtime.service.wait(submitted.task.id)


async def test_a_lora_that_is_gone_when_its_task_comes_up_fails_that_task_alone(
    start: Start, folder: Path
):
    settings = {"loras_dir": folder / "loras", "models": MODELS}
    first = await start(**settings, queue={"max_tasks": 10})
    blocked = asks("fake:sleep=2", model="small")
    await first.service.submit(caller(first), blocked, dialect="native")
    waiting = (await first.service.submit(caller(first), named("outlined"), dialect="native")).task
    await first.stop(drain_s=0)

    os.remove(folder / "loras" / "outlined.safetensors")
    again = await start(**settings)
    async with asyncio.timeout(60):
        task = await again.service.wait(waiting.id)
    assert task.state is TaskState.FAILED
    assert task.error is not None
    assert (task.error.code, task.error.params["lora"]) == ("unknown_lora", "outlined")
    assert (await ended(again, named("silent"))).state is TaskState.COMPLETED
