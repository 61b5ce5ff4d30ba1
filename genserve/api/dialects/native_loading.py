"""The native API's control of weights, for admins: load, unload, look at the folders again."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from genserve.api.auth import AdminCaller, runtime_of, visit_of
from genserve.api.dialects.native_answers import json_response
from genserve.api.dialects.native_docs import answers
from genserve.api.dialects.native_docs_info import LoadedModel, Rescanned
from genserve.api.dialects.native_route import NativeRoute
from genserve.api.preferences import prefers_async
from genserve.core.residency import Outcome, Report
from genserve.core.stocktaking import Item
from genserve.errors import Language, NotReady

router = APIRouter(route_class=NativeRoute, tags=["models"])

RETRY_S = 30
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"model": LoadedModel, "description": "With Prefer: respond-async: begun"}
}


@router.post(
    "/models/{model_id}/load",
    responses=answers(LoadedModel, "What each worker did") | ACCEPTED,
)
async def load_model(request: Request, model_id: str, _: AdminCaller) -> Response:
    """Have every worker read a model: idle ones now, busy ones after their task."""
    runtime, wait = runtime_of(request), not prefers_async(request.headers)
    spec = runtime.catalog.serving(model_id).spec
    reports = await runtime.dispatcher.residency.load(spec, wait=wait)
    _refuse_in_vain(reports)
    return _answer(model_id, spec.id, reports, visit_of(request).language, wait=wait)


@router.post(
    "/models/{model_id}/unload",
    responses=answers(LoadedModel, "What each worker did") | ACCEPTED,
)
async def unload_model(request: Request, model_id: str, _: AdminCaller) -> Response:
    """Have every worker give a model's memory back; a load that still waits is dropped."""
    runtime, wait = runtime_of(request), not prefers_async(request.headers)
    entry = runtime.catalog.entry(model_id)
    serving = entry.served_by or entry.spec.id
    reports = await runtime.dispatcher.residency.unload(serving, wait=wait)
    return _answer(model_id, serving, reports, visit_of(request).language, wait=wait)


@router.post("/models/rescan", responses=answers(Rescanned, "What is different now"))
async def rescan(request: Request, _: AdminCaller) -> Response:
    """Look at the folders of models, LoRAs and embeddings again; tasks are not disturbed."""
    changes = await runtime_of(request).rescan()
    content = {
        "success": True,
        "added": [_item(item) for item in changes.added],
        "removed": [_item(item) for item in changes.removed],
        "changed": [_item(item) for item in changes.changed],
        "broken": [_item(item) for item in changes.broken],
    }
    return json_response(content)


def _item(item: Item) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "name": item.name,
        "available": item.available,
        "problem": item.problem,
    }


def _refuse_in_vain(reports: Sequence[Report]) -> None:
    """Raise the error when no worker has loaded it, or will."""
    if any(one.outcome not in (Outcome.FAILED, Outcome.UNAVAILABLE) for one in reports):
        return
    for report in reports:
        if report.error is not None:
            raise report.error.told()
    raise NotReady(reason="every worker is broken or stopped", retry_after_s=RETRY_S)


def _answer(
    model_id: str, served_by: str, reports: Sequence[Report], language: Language, *, wait: bool
) -> Response:
    content = {
        "success": not any(report.outcome is Outcome.FAILED for report in reports),
        "model_id": model_id,
        "served_by": served_by,
        "workers": [_worker(report, language) for report in reports],
    }
    return json_response(content, 200 if wait else 202)


def _worker(report: Report, language: Language) -> dict[str, Any]:
    error = report.error.told() if report.error else None
    return {
        "id": report.worker,
        "outcome": report.outcome,
        "code": error.code if error else None,
        "detail": error.detail(language) if error else None,
    }
