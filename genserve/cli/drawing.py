"""Two ways to have a picture drawn: by a running server, or by a private one in this process."""

import asyncio
import base64
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genserve.cli.client import Client
from genserve.config import Config, Keys, Pool, Store
from genserve.core.runtime import Runtime
from genserve.domain.request import GenerationRequest, Output
from genserve.domain.task import Task
from genserve.errors import CommandFailed, TaskCancelled
from genserve.workers.devices import choose, installed_gpus


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asked for; None: the model's default."""

    prompt: str
    model: str
    negative_prompt: str
    width: int | None
    height: int | None
    steps: int | None
    guidance: float | None
    seed: int | None
    count: int
    format: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """Finished pictures, as encoded files, and what is worth telling about them."""

    pictures: list[bytes]
    seed: int
    served_by: str


@dataclass(frozen=True, slots=True)
class Stage:
    """How far a task is, for a progress bar; `total` is absent until steps are counted."""

    text: str
    step: int | None = None
    total: int | None = None

    @classmethod
    def of(cls, kind: str, data: Mapping[str, Any]) -> "Stage":
        """From an event's kind and fields, as the API sends them too."""
        match kind:
            case "queued":
                return cls(f"waiting, number {data['position']} in the queue")
            case "loading":
                return cls(f"loading {data['model']}")
            case "progress":
                return cls("drawing", data["step"], data["total"])
            case "started":
                return cls("drawing")
            case _:
                return cls(kind)


OnStage = Callable[[Stage], None]


def by_server(client: Client, wish: Wish, on_stage: OnStage) -> Drawn:
    """Draw through a running server. Raises `CommandFailed`, `ServerUnreachable`."""
    task_id = client.post("/generate", _body(wish))["task_id"]
    try:
        for kind, data in client.server_sent(f"/task/{task_id}/events"):
            on_stage(Stage.of(kind, data))
    except KeyboardInterrupt:
        client.post(f"/task/{task_id}/cancel")
        raise
    answer = client.get(f"/task/{task_id}")
    if not answer.get("images"):
        raise CommandFailed(problem=answer.get("detail") or answer["error"])
    metadata = answer["metadata"]
    return Drawn(
        pictures=[base64.b64decode(uri.partition(",")[2]) for uri in answer["images"]],
        seed=metadata["seed"],
        served_by=metadata.get("served_by", wish.model),
    )


def _body(wish: Wish) -> dict[str, Any]:
    body = {
        "prompt": wish.prompt,
        "model_id": wish.model,
        "negative_prompt": wish.negative_prompt or None,
        "width": wish.width,
        "height": wish.height,
        "num_inference_steps": wish.steps,
        "cfg": wish.guidance,
        "num_images": wish.count,
        "output_format": wish.format,
        "async": True,
    }
    given = {name: value for name, value in body.items() if value is not None}
    return {**given, "seed": wish.seed}  # null draws one; absent would be the API's 42


def privately(config: Config, visible_gpus: str | None, wish: Wish, on_stage: OnStage) -> Drawn:
    """Draw with a runtime of one worker and a temporary data folder. Raises `GenServeError`."""
    with tempfile.TemporaryDirectory(prefix="genserve-") as folder:
        private = _private(config, Path(folder), visible_gpus)
        return asyncio.run(_draw(private, wish, on_stage))


def _private(config: Config, folder: Path, visible_gpus: str | None) -> Config:
    """The configuration with one worker, an empty data folder, and no keys."""
    return config.model_copy(
        update={
            "data_dir": folder,
            "keys": Keys(),
            "store": Store(),
            "pool": config.pool.model_copy(
                update={"devices": _one_device(config.pool, visible_gpus)}
            ),
        }
    )


def _one_device(pool: Pool, visible_gpus: str | None) -> str | tuple[int, ...]:
    environment = {} if visible_gpus is None else {"CUDA_VISIBLE_DEVICES": visible_gpus}
    first = choose(pool, environment, installed_gpus())[0]
    return "cpu:1" if first.kind == "cpu" else (int(first.name.removeprefix("gpu-")),)


async def _draw(config: Config, wish: Wish, on_stage: OnStage) -> Drawn:
    runtime = await Runtime.start(config, reread=lambda: config)
    try:
        submitted = await runtime.service.submit(
            runtime.keys.default_caller(), _request(wish), dialect="native"
        )
        async for _, event in runtime.service.watch(submitted.task.id):
            on_stage(Stage.of(event.kind, event.model_dump()))
        task = await runtime.service.wait(submitted.task.id)
        return _drawn(runtime, task)
    finally:
        await runtime.stop(drain_s=0)


def _request(wish: Wish) -> GenerationRequest:
    return GenerationRequest.model_validate(
        {
            "model": wish.model,
            "prompt": wish.prompt,
            "negative_prompt": wish.negative_prompt,
            "width": wish.width,
            "height": wish.height,
            "steps": wish.steps,
            "guidance": wish.guidance,
            "seed": wish.seed,
            "count": wish.count,
            "output": Output.model_validate({"format": wish.format}),
        }
    )


def _drawn(runtime: Runtime, task: Task) -> Drawn:
    if task.result is None:
        raise task.error.told() if task.error else TaskCancelled()
    return Drawn(
        pictures=[runtime.blobs.path(image.sha256).read_bytes() for image in task.result.images],
        seed=task.result.images[0].seed,
        served_by=task.result.served_by,
    )
