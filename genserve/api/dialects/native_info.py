"""The native API's information: what serves here, how it does, models and LoRAs."""

from collections.abc import Collection
from typing import Any

from fastapi import APIRouter, Request, Response

from genserve import __version__
from genserve.api.auth import OptionalCaller, ReadonlyCaller, runtime_of
from genserve.api.dialects.native_answers import auth_info, json_response
from genserve.api.dialects.native_docs import answers
from genserve.api.dialects.native_docs_info import Health, LoraList, ModelList, Status, Welcome
from genserve.api.dialects.native_route import NativeRoute
from genserve.api.health import health_of
from genserve.core.inventory import ModelEntry
from genserve.core.service import StatusReport
from genserve.domain.caller import Permission
from genserve.domain.pool import WorkerInfo
from genserve.domain.task import TaskState

router = APIRouter(route_class=NativeRoute, tags=["information"])

ENDPOINTS = [
    "/health",
    "/status",
    "/models",
    "/loras",
    "/generate",
    "/generate/upload",
    "/preprocessors",
    "/preprocess",
    "/task/{task_id}",
    "/tasks",
    "/auth/keys",
]


@router.get("/", responses=answers(Welcome, "What serves here"))
async def welcome(request: Request, _: ReadonlyCaller) -> Response:
    """What serves here and where to go on."""
    workers = runtime_of(request).pool.workers()
    content = {
        "service": "GenServe",
        "version": __version__,
        "status": health_of(workers),
        "model_loaded": any(worker.loaded for worker in workers),
        "docs": "/docs",
        "endpoints": ENDPOINTS,
    }
    return json_response(content)


@router.get(
    "/health",
    responses=answers(Health, "Healthy or starting")
    | {503: {"model": Health, "description": "No worker can serve"}},
)
async def health(request: Request, caller: OptionalCaller) -> Response:
    """Whether the server works; details for a key with `readonly`."""
    runtime = runtime_of(request)
    workers = runtime.pool.workers()
    content: dict[str, Any] = {
        "status": health_of(workers),
        "model_loaded": any(worker.loaded for worker in workers),
    }
    if caller is not None and caller.allows(Permission.READONLY):
        report = await runtime.service.status()
        content |= _report(report)
        content["served_by"] = {
            entry.spec.id: entry.served_by
            for entry in runtime.catalog.models()
            if entry.served_by is not None
        }
    return json_response(content, 503 if content["status"] == "unhealthy" else 200)


@router.get("/status", responses=answers(Status, "What the server is doing"))
async def status(request: Request, caller: ReadonlyCaller) -> Response:
    """The queue and the workers."""
    report = await runtime_of(request).service.status()
    content = {
        "success": True,
        "status": health_of(report.workers),
        **_report(report),
        "auth_info": auth_info(caller),
    }
    return json_response(content)


@router.get("/models", responses=answers(ModelList, "Every configured model"))
async def models(request: Request, _: ReadonlyCaller) -> Response:
    """Which models there are, what they can do, and which model really draws."""
    runtime = runtime_of(request)
    workers = runtime.pool.workers()
    entries = [_model(entry, workers) for entry in runtime.catalog.models()]
    return json_response({"success": True, "models": entries})


@router.get("/loras", responses=answers(LoraList, "Every LoRA"))
async def loras(request: Request, _: ReadonlyCaller) -> Response:
    """Which LoRAs there are."""
    found = [
        {
            "name": lora.name,
            "size_bytes": lora.size_bytes,
            "sha256": lora.source.sha256 if lora.source is not None else None,
            "base": lora.base,
            "kind": lora.kind,
            "rank": lora.rank,
            "trigger_words": list(lora.trigger_words),
            "available": lora.source is not None,
            "problem": lora.problem,
        }
        for lora in runtime_of(request).catalog.loras()
    ]
    return json_response({"success": True, "loras": found})


def _report(report: StatusReport) -> dict[str, Any]:
    return {
        "version": __version__,
        "uptime": round(report.uptime_s, 1),
        "queue": {
            "pending": report.counts.get(TaskState.PENDING, 0),
            "processing": report.counts.get(TaskState.PROCESSING, 0),
            "mean_task_time": report.mean_task_s,
        },
        "workers": [_worker(worker) for worker in report.workers],
    }


def _worker(worker: WorkerInfo) -> dict[str, Any]:
    """A worker without process and task ids, which are nobody's but the operator's."""
    return {
        "id": worker.id,
        "device": worker.device,
        "device_name": worker.device_name,
        "state": worker.state,
        "reason": worker.reason,
        "loaded": list(worker.loaded),
        "loading": worker.loading or None,
        "memory_total": worker.memory_total,
        "memory_used": worker.memory_used,
        "restarts": worker.restarts,
        "busy": worker.task_id is not None,
    }


def _model(entry: ModelEntry, workers: Collection[WorkerInfo]) -> dict[str, Any]:
    spec, able = entry.spec, entry.spec.capabilities
    drawn_by = entry.served_by or spec.id
    loaded_on = [worker.id for worker in workers if drawn_by in worker.loaded]
    return {
        "id": spec.id,
        "description": spec.description,
        "modes": list(able.modes),
        "control_types": list(able.control_types),
        "schedulers": list(able.schedulers),
        "sigmas": list(able.sigmas),
        "clip_skip": able.clip_skip,
        "vaes": sorted(spec.vaes),
        "embeddings": sorted(spec.embeddings),
        "loras": able.loras,
        "negative_prompt": able.negative_prompt,
        "multiple_of": able.multiple_of,
        "max_pixels": able.max_pixels,
        "defaults": spec.defaults.model_dump(),
        "installed": entry.installed,
        "available": entry.served_by is not None,
        "served_by": entry.served_by,
        "problem": entry.problem,
        "loaded": bool(loaded_on),
        "loaded_on": loaded_on,
    }
