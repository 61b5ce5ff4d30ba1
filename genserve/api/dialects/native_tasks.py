"""The native API's tasks: look at one, list them, follow one, stop one; and fetch pictures."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from genserve.api.auth import Anyone, GenerationCaller, TaskCaller, runtime_of, visit_of
from genserve.api.dialects.native_answers import (
    auth_info,
    json_response,
    metadata_of,
    summary_of,
    told,
)
from genserve.api.dialects.native_docs import TaskAnswer, TaskList, TaskSummary, answers
from genserve.api.dialects.native_pictures import links_of, show_picture, with_pictures
from genserve.api.dialects.native_route import NativeRoute
from genserve.api.media import FILE_NAME, MEDIA_TYPES, read_picture
from genserve.api.preferences import wants_image
from genserve.api.sse import EventStream, event_stream, message
from genserve.domain.caller import KeyRecord
from genserve.domain.events import Failed, Finished, Loading, Progress, Queued, Started, TaskEvent
from genserve.domain.task import Task, TaskState
from genserve.errors import ImageNotFound, ShuttingDown, TaskNotFound

router = APIRouter(route_class=NativeRoute, tags=["tasks"])

TASK_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MAX_PAGE = 200


@router.get(
    "/task/{task_id}",
    responses=answers(TaskAnswer, "The task. With an image type in Accept: the picture's bytes."),
)
async def read_task(request: Request, task_id: str, caller: TaskCaller) -> Response:
    """A task's state and, when it is completed, its pictures."""
    task = await _task(request, caller, task_id)
    if task.state is TaskState.COMPLETED and wants_image(request.headers.get("accept")):
        return await show_picture(request, task, {})
    content = await _described(request, caller, task)
    return (
        await with_pictures(request, task, content, {}) if task.result else json_response(content)
    )


@router.get("/tasks", responses=answers(TaskList, "Own tasks; every owner's for an admin"))
async def list_tasks(
    request: Request,
    caller: TaskCaller,
    status: TaskState | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    before: Annotated[str | None, Query(pattern=TASK_ID.pattern, max_length=36)] = None,
) -> Response:
    """Tasks, newest first."""
    tasks = await runtime_of(request).service.list_tasks(
        caller, state=status, limit=limit, before=before
    )
    content = {
        "success": True,
        "tasks": [_summary(request, task) for task in tasks],
        "next": tasks[-1].id if len(tasks) == limit else None,
    }
    return json_response(content)


@router.post("/task/{task_id}/cancel", responses=answers(TaskSummary, "The task as it is now"))
async def cancel_task(request: Request, task_id: str, caller: GenerationCaller) -> Response:
    """Stop a task: at once while it waits, within a step while it is worked on."""
    await _task(request, caller, task_id)
    task = await runtime_of(request).service.cancel(caller, task_id)
    return json_response({**_summary(request, task), "success": True})


@router.get(
    "/task/{task_id}/events",
    response_class=EventStream,
    responses={
        200: {
            "description": "queued, loading, started, progress; finished, failed or "
            "cancelled is the last. Resumes with Last-Event-ID."
        }
    },
)
async def watch_task(request: Request, task_id: str, caller: TaskCaller) -> Response:
    """What happens to a task, as server-sent events, from its current state on."""
    await _task(request, caller, task_id)
    seen = request.headers.get("last-event-id")
    return event_stream(_events(request, caller, task_id, seen))


@router.get(
    "/images/{name}",
    response_class=Response,
    responses={200: {"content": {f"{kind}": {} for kind in MEDIA_TYPES.values()}}},
)
async def read_image(
    request: Request, name: str, _: Anyone, expires: str = "", signature: str = ""
) -> Response:
    """A picture by a signed link of `image_urls`; needs no key."""
    runtime = runtime_of(request)
    match = FILE_NAME.fullmatch(name)
    until = int(expires) if re.fullmatch(r"[0-9]{1,12}", expires) else 0
    if not match or not runtime.keys.image_signature_ok(name, until, signature):
        raise ImageNotFound(name=name[:80])
    data = await asyncio.to_thread(read_picture, runtime.blobs, match.group(1), name)
    return Response(
        data,
        media_type=MEDIA_TYPES[match.group(2)],
        headers={
            "Cache-Control": f"private, immutable, max-age={max(0, int(until - runtime.clock()))}",
            "Content-Disposition": f'inline; filename="{name}"',
            "Content-Security-Policy": "default-src 'none'; sandbox",
        },
    )


async def _task(request: Request, caller: KeyRecord, task_id: str) -> Task:
    if not TASK_ID.fullmatch(task_id):
        raise TaskNotFound(task_id=task_id[:64])
    visit_of(request).concerns(task_id)
    return await runtime_of(request).service.get(caller, task_id)


def _summary(request: Request, task: Task) -> dict[str, Any]:
    links = links_of(request, task)
    return {**summary_of(task, visit_of(request).language), "image_urls": links}


async def _described(request: Request, caller: KeyRecord, task: Task) -> dict[str, Any]:
    return {
        **_summary(request, task),
        **_stage(await _event(request, task)),
        "image": None,
        "images": [],
        "metadata": metadata_of(task) if task.result else None,
        "auth_info": auth_info(caller),
    }


async def _event(request: Request, task: Task) -> TaskEvent | None:
    service = runtime_of(request).service
    if task.state is TaskState.PENDING:
        return await service.position(task.id)
    return None if task.state.ended else service.progress(task.id)


def _stage(event: TaskEvent | None) -> dict[str, Any]:
    """Where a task is that has not ended."""
    alive = isinstance(event, Queued | Loading | Started | Progress)
    stage: dict[str, Any] = {
        "stage": event.kind if event and alive else None,
        "position": None,
        "eta": None,
        "progress": None,
    }
    if isinstance(event, Queued):
        stage |= {"position": event.position, "eta": event.eta_s}
    if isinstance(event, Progress):
        percent = round(100 * event.step / max(1, event.total), 1)
        stage["progress"] = {"step": event.step, "total": event.total, "percent": percent}
    return stage


async def _events(
    request: Request, caller: KeyRecord, task_id: str, seen: str | None
) -> AsyncGenerator[str, None]:
    service, language = runtime_of(request).service, visit_of(request).language
    try:
        async for event_id, event in service.watch(task_id):
            if event_id == seen and not event_id.endswith(".0"):
                continue  # the client had this one before its connection broke
            data: dict[str, Any] = {"task_id": task_id, **event.model_dump(exclude={"kind"})}
            if isinstance(event, Progress) and event.preview is None:
                del data["preview"]  # most have none
            if isinstance(event, Failed):
                data = {"task_id": task_id, **told(event.error.told(), language)}
            if isinstance(event, Finished):
                data["image_urls"] = links_of(request, await service.get(caller, task_id))
            yield message(event_id, event.kind, data)
    except ShuttingDown:
        return  # the client comes back to the restarted server and is told the state then
