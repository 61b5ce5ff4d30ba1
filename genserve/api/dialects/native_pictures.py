"""A completed task's pictures on their way out: as JSON with data URIs, or as they are."""

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response

from genserve.api.auth import runtime_of, visit_of
from genserve.api.dialects.native_answers import json_response, pictures_of, to_response
from genserve.api.media import read_picture, signed_link
from genserve.api.preferences import wants_image
from genserve.domain.caller import KeyRecord
from genserve.domain.task import Result, Task
from genserve.errors import GenServeError


async def show_finished(
    request: Request, caller: KeyRecord, task: Task, headers: Mapping[str, str]
) -> Response:
    """§5.1, or the first picture itself when Accept prefers an image type."""
    if wants_image(request.headers.get("accept")):
        return await show_picture(request, task, headers)
    content = to_response(task, links_of(request, task), caller)
    return await with_pictures(request, task, content, headers)


async def with_pictures(
    request: Request, task: Task, content: Mapping[str, Any], headers: Mapping[str, str]
) -> Response:
    """`content` with the task's pictures inline."""
    blobs, result = runtime_of(request).blobs, _result(task)

    def build() -> Response:
        pictures = [read_picture(blobs, image.sha256, image.file_name) for image in result.images]
        return json_response({**content, **pictures_of(result, pictures)}, headers=headers)

    return await asyncio.to_thread(build)  # megabytes to read and encode


async def show_picture(request: Request, task: Task, headers: Mapping[str, str]) -> Response:
    """The first picture's bytes; Content-Type says what they are, whatever was asked for."""
    first = _result(task).images[0]
    blobs = runtime_of(request).blobs
    data = await asyncio.to_thread(read_picture, blobs, first.sha256, first.file_name)
    named = {"X-Task-Id": task.id, "X-Seed": str(first.seed), **headers}
    return Response(data, media_type=first.media_type, headers=named)


def links_of(request: Request, task: Task) -> list[str]:
    """Signed links to a task's pictures."""
    runtime = runtime_of(request)
    expires_at = int(runtime.clock() + runtime.config.api.image_url_ttl_s)
    images = task.result.images if task.result else ()
    origin = visit_of(request).origin
    return [signed_link(runtime.keys, origin, image.file_name, expires_at) for image in images]


def _result(task: Task) -> Result:
    if task.result is None:
        raise GenServeError
    return task.result
