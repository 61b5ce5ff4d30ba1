"""What showing a picture while it is drawn costs, against drawing it, with the shipped model."""

import asyncio
from pathlib import Path

import uvloop

from genserve.cli.bench.report import Figure, Report, percentile
from genserve.config import Config
from genserve.core.runtime import Runtime
from genserve.domain.events import Progress
from genserve.domain.request import GenerationRequest
from genserve.domain.task import Result
from genserve.errors import CommandFailed

MODELS = Path(__file__).resolve().parents[3] / "models"
MODEL = "tiny-flux-dev"
STEPS, SIDE = 100, 128
GOAL_SHARE = 2.0


def measure(folder: Path, size: int) -> Report:
    """Draw `size` pictures with previews, after one that fits the VAE's projection."""
    config = Config.model_validate(
        {
            "data_dir": folder / "data",
            "pool": {"devices": "cpu:1"},
            "models_dir": MODELS,
            "models": {MODEL: {"family": "flux", "multiple_of": 16}},
        }
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        first, drawn = runner.run(_measure(config, size))
    shown = sum(previews for _, previews in drawn)
    spent_s = sum(result.stages_s.get("preview", 0.0) for result, _ in drawn)
    denoise_s = sum(result.stages_s["denoise"] for result, _ in drawn)
    step_s = percentile([result.stages_s["denoise"] / STEPS for result, _ in drawn], 0.5)
    return Report(
        benchmark="preview",
        done=f"{size} pictures of {STEPS} steps, {SIDE}x{SIDE}, by {MODEL}: {shown} previews",
        figures=[
            Figure("the first one, with its fit", first.stages_s["preview"] * 1e3, "ms"),
            Figure("each further one", spent_s / max(1, shown) * 1e3, "ms"),
            Figure("a step, p50", step_s * 1e3, "ms"),
            Figure("previews over drawing", spent_s / denoise_s * 100, "%", at_most=GOAL_SHARE),
        ],
    )


async def _measure(config: Config, size: int) -> tuple[Result, list[tuple[Result, int]]]:
    """The result of the first picture that had a preview; the others', with how many each had."""
    runtime = await Runtime.start(config, reread=lambda: config)
    try:
        result, previews = await _draw(runtime)
        while not previews:  # a machine that draws it in less than half a second
            result, previews = await _draw(runtime, pictures=10)
        return result, [await _draw(runtime) for _ in range(size)]
    finally:
        await runtime.stop(drain_s=0)


async def _draw(runtime: Runtime, pictures: int = 1) -> tuple[Result, int]:
    request = GenerationRequest(
        model=MODEL,
        prompt="a green tree in the garden",
        width=SIDE,
        height=SIDE,
        steps=STEPS,
        count=pictures,
    )
    caller = runtime.keys.default_caller()
    task = (await runtime.service.submit(caller, request, dialect="native")).task
    previews = 0
    async for _, event in runtime.service.watch(task.id):
        previews += isinstance(event, Progress) and event.preview is not None
    ended = await runtime.service.get(caller, task.id)
    if ended.result is None:
        raise CommandFailed(problem=ended.error.told().detail("en") if ended.error else "no result")
    return ended.result, previews
