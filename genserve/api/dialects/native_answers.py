"""How the native API answers: the shapes of the users' document (§5), as pure functions."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from fastapi import Response

from genserve.api.media import data_uri
from genserve.domain.caller import KeyRecord, Permission
from genserve.domain.request import TOOL_MODES, GenerationRequest, ImageRole, Mode
from genserve.domain.task import Result, Task, TaskState
from genserve.errors import Forbidden, GenServeError, Language, TaskCancelled, Unauthorized

Json = dict[str, Any]


def json_response(
    content: Json, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`content` as JSON, with Chinese readable as it is."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    # Text from outside may hold what UTF-8 cannot (an unpaired surrogate in a field's name).
    return Response(text.encode(errors="replace"), status, headers, media_type="application/json")


def render_error(error: GenServeError, language: Language, task_id: str | None = None) -> Response:
    """§5.3 for a missing key or permission, §5.2 with `code` and `task_id` for all else."""
    if isinstance(error, Unauthorized | Forbidden):
        return json_response({"detail": error.detail(language)}, error.status)
    return json_response({**told(error, language), "task_id": task_id}, error.status)


def told(error: GenServeError, language: Language) -> Json:
    """An error in the shape of §5.2."""
    return {
        "success": False,
        "error": error.title(language),
        "detail": error.detail(language),
        "code": error.code,
    }


def to_response(task: Task, links: Sequence[str], caller: KeyRecord) -> Json:
    """§5.1: a task that ended well; `pictures_of` fills in the pictures."""
    return {
        "success": True,
        "task_id": task.id,
        "image": None,
        "images": [],
        "image_urls": list(links),
        "metadata": metadata_of(task),
        "auth_info": auth_info(caller),
    }


def pictures_of(result: Result, pictures: Sequence[bytes]) -> Json:
    """The pictures inline, the first one also by itself."""
    uris = [data_uri(image, data) for image, data in zip(result.images, pictures, strict=True)]
    return {"image": uris[0], "images": uris}


def metadata_of(task: Task) -> Json:
    """What made the picture: enough to make it again."""
    result, request = task.result, task.resolved or task.asked
    if result is None:
        return {}
    first = result.images[0]
    native = (result.native_width, result.native_height)
    drawn = request.mode not in TOOL_MODES
    return {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "model_id": task.asked.model,
        "mode": request.mode,
        "generation_time": round(result.generation_s, 3),
        "seed": first.seed,
        "cfg": request.guidance if drawn else None,
        "steps": request.steps if drawn else None,
        "width": first.width,
        "height": first.height,
        "scheduler": request.scheduler if drawn else None,
        "sigmas": request.sigmas,
        "clip_skip": request.clip_skip,
        "vae": request.vae,
        "strength": request.strength if _redraws(request) else None,
        "loras": [lora.model_dump() for lora in request.loras],
        "seeds": [image.seed for image in result.images],
        "served_by": result.served_by,
        "native_width": native[0],
        "native_height": native[1],
        "upscaled": native != (first.width, first.height),
        "degraded": [rung.model_dump() for rung in result.degraded],
        "load_time": round(result.load_s, 3),
        "queue_time": _queue_time(task),
    }


def _redraws(request: GenerationRequest) -> bool:
    """Whether strength counted: as much was redrawn, or so much a reference said."""
    return request.mode is Mode.REDUX or request.image(ImageRole.INIT) is not None


def auth_info(caller: KeyRecord) -> Json:
    """Who asked, as §5.1 shows it; permissions in the order of the document's table."""
    return {
        "user": caller.name,
        "permissions": [one for one in Permission if one in caller.permissions],
    }


def summary_of(task: Task, language: Language) -> Json:
    """A task without its pictures: state, times, and what went wrong."""
    failed = task.state in (TaskState.FAILED, TaskState.CANCELLED)
    summary: Json = {
        "success": not failed,
        "task_id": task.id,
        "status": task.state,
        "model_id": task.asked.model,
        "mode": task.asked.mode,
        "priority": task.priority,
        "created_at": time_of(task.created_at),
        "started_at": time_of(task.started_at),
        "finished_at": time_of(task.finished_at),
        "error": None,
        "detail": None,
        "code": None,
    }
    return {**summary, **told(ended_badly(task), language)} if failed else summary


def ended_badly(task: Task) -> GenServeError:
    """Why a task made no picture."""
    if task.error is not None:
        return task.error.told()
    return TaskCancelled() if task.state is TaskState.CANCELLED else GenServeError()


def accepted(task_id: str) -> Json:
    """The answer to a request that does not wait."""
    return {
        "success": True,
        "task_id": task_id,
        "status": TaskState.PENDING,
        "status_url": f"/task/{task_id}",
        "events_url": f"/task/{task_id}/events",
    }


def time_of(moment: datetime | None) -> str | None:
    """A time as `2026-01-31T12:00:00.000Z`."""
    if moment is None:
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _queue_time(task: Task) -> float | None:
    if task.started_at is None:
        return None
    return round((task.started_at - task.created_at).total_seconds(), 3)
