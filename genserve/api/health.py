"""For load balancers and monitoring: is the process alive, can it take work, its metrics.

None of it needs a key or touches a GPU; /metrics is open to this machine alone unless configured.
"""

import asyncio
from collections.abc import Collection
from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from genserve.api.auth import Anyone, OptionalCaller, runtime_of, visit_of
from genserve.api.default_key import is_local_request
from genserve.api.dialects.native_answers import json_response
from genserve.api.dialects.native_docs import answers
from genserve.api.dialects.native_docs_info import Alive, Ready
from genserve.api.dialects.native_route import NativeRoute
from genserve.core.runtime import Runtime
from genserve.domain.caller import Permission
from genserve.domain.pool import WorkerInfo, WorkerState
from genserve.errors import Forbidden, GenServeError

router = APIRouter(route_class=NativeRoute, tags=["operation"])

CHECK_TIMEOUT_S = 3.0
ABLE = frozenset({WorkerState.IDLE, WorkerState.BUSY})


def health_of(workers: Collection[WorkerInfo]) -> Literal["healthy", "starting", "unhealthy"]:
    """Whether work can be done now, soon, or not at all."""
    states = {worker.state for worker in workers}
    if states & ABLE:
        return "healthy"
    return "starting" if states & {WorkerState.STARTING, WorkerState.RESTARTING} else "unhealthy"


@router.get("/healthz", responses=answers(Alive, "The process answers"))
async def healthz(_: Anyone) -> Response:
    """Whether the process is alive."""
    return json_response({"status": "ok"})


@router.get(
    "/readyz",
    responses=answers(Ready, "Tasks are accepted")
    | {503: {"model": Ready, "description": "Tasks are not accepted"}},
)
async def readyz(request: Request, _: Anyone) -> Response:
    """Whether tasks can be accepted: the database takes writes, and some worker can serve."""
    runtime = runtime_of(request)
    health = health_of(runtime.pool.workers())
    checks = {
        "database": await _database(runtime),
        "workers": "no worker can serve" if health == "unhealthy" else "ok",
    }
    ready = all(result == "ok" for result in checks.values())
    content = {"status": "ready" if ready else "not ready", "checks": checks}
    return json_response(content, 200 if ready else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format"}},
)
async def metrics(request: Request, caller: OptionalCaller) -> Response:
    """Figures for Prometheus; without a key only for this machine, unless made public."""
    runtime, visit = runtime_of(request), visit_of(request)
    peer = request.client.host if request.client else None
    open_to_all = runtime.config.api.public_metrics
    if not (open_to_all or is_local_request(peer, request.scope["scheme"], request.headers)):
        if caller is None:
            raise visit.authenticator.missing_key(visit.address)
        if not caller.allows(Permission.READONLY):
            raise Forbidden(needed=Permission.READONLY, granted=[*sorted(caller.permissions)])
    rendered = await asyncio.to_thread(runtime.metrics.render)
    return Response(rendered, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _database(runtime: Runtime) -> str:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await asyncio.wrap_future(runtime.db.write(_nothing, durable=False))
    except TimeoutError:
        return "does not answer"
    except GenServeError as error:
        return str(error.params.get("problem", error.code))
    return "ok"


def _nothing(_: object) -> None:
    """A write that changes nothing, but waits its turn and takes the write lock."""
