"""From a translated request to the answer: pictures decoded, task queued, end waited for."""

from collections.abc import Mapping, Sequence

from fastapi import Request, Response

from genserve.api.auth import runtime_of, visit_of
from genserve.api.body import FormValue
from genserve.api.dialects.native_answers import accepted, ended_badly, json_response
from genserve.api.dialects.native_docs import Accepted, Generated, answers
from genserve.api.dialects.native_pictures import show_finished
from genserve.api.media import decode_base64
from genserve.api.preferences import idempotency_key, prefers_async
from genserve.api.waiting import until_ended
from genserve.core.service import InputPicture
from genserve.domain.caller import KeyRecord
from genserve.domain.request import GenerationRequest
from genserve.domain.task import TaskState
from genserve.errors import IdempotencyInFlight

DIALECT = "native"
DONE = answers(
    Generated,
    "The finished picture. With an image type in Accept: its bytes, in the format that "
    "Content-Type names, with X-Task-Id and X-Seed.",
) | {202: {"model": Accepted, "description": "Accepted, with `async` or Prefer: respond-async"}}
"""The answers of a route that makes pictures."""


async def decoded(request: Request, given: Mapping[str, FormValue]) -> dict[str, InputPicture]:
    """The pictures that were sent, by field. Raises `BadImage`, `ImageTooLarge`."""
    runtime, language = runtime_of(request), visit_of(request).language
    pictures = {}
    for name, value in given.items():
        if isinstance(value, str):
            value = decode_base64(value, name, runtime.config.api, language)
        pictures[name] = await runtime.service.read_picture(value, name)
    return pictures


async def submit(
    request: Request,
    caller: KeyRecord,
    wanted: GenerationRequest,
    pictures: Sequence[InputPicture],
    *,
    priority: int,
    respond_async: bool,
) -> Response:
    """Queue it, then wait for the end or answer at once."""
    runtime, visit = runtime_of(request), visit_of(request)
    key = idempotency_key(request.headers, visit.language)
    submitted = await runtime.service.submit(
        caller,
        wanted,
        dialect=DIALECT,
        priority=priority,
        pictures=pictures,
        idempotency=key,
    )
    task = submitted.task
    visit.concerns(task.id)
    headers = {"Idempotency-Replayed": "true"} if submitted.replayed else {}
    if respond_async or prefers_async(request.headers):
        content = accepted(task.id)
        return json_response(content, 202, {"Location": content["status_url"], **headers})
    if submitted.replayed and not task.state.ended:
        raise IdempotencyInFlight(key=key)
    if not task.state.ended:
        task = await until_ended(request, runtime.service, task.id, abandon=key is None)
    if task.state is not TaskState.COMPLETED:
        raise ended_badly(task)
    return await show_finished(request, caller, task, headers)
