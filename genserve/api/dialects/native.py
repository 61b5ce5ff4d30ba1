"""GenServe's own API: the dialect's four names, POST /generate and POST /generate/upload.

The other routes are in `native_tasks`, `native_info` and `native_keys`; what is sent is in
`native_models`, what is answered in `native_answers`.
"""

from collections.abc import Collection, Mapping

from fastapi import APIRouter, Request, Response
from pydantic import JsonValue

from genserve.api.auth import GenerationCaller, runtime_of, visit_of
from genserve.api.body import FormValue, content_type, parse_json, read_form, read_json
from genserve.api.dialects import native_info, native_keys, native_tasks
from genserve.api.dialects.native_answers import (
    accepted,
    ended_badly,
    json_response,
    render_error,
    to_response,
)
from genserve.api.dialects.native_docs import Accepted, Generated, UploadForm, answers, takes
from genserve.api.dialects.native_models import (
    IMAGE_FIELDS,
    MODES,
    RANDOM_SEED,
    SYNONYMS,
    GenerateBody,
    GenerateFields,
    from_form,
)
from genserve.api.dialects.native_pictures import show_finished
from genserve.api.dialects.native_route import NativeRoute
from genserve.api.language import say
from genserve.api.media import decode_base64
from genserve.api.preferences import idempotency_key, prefers_async
from genserve.api.problems import checked
from genserve.api.waiting import until_ended
from genserve.config import Api
from genserve.core.service import InputPicture
from genserve.domain.caller import KeyRecord
from genserve.domain.request import (
    Control,
    ControlType,
    FileRef,
    GenerationRequest,
    ImageRole,
    InputImage,
    LoraRef,
    Mode,
    Output,
)
from genserve.domain.task import TaskState
from genserve.errors import (
    IdempotencyInFlight,
    Language,
    MalformedBody,
    MissingImage,
    UnknownMode,
    ValidationFailed,
)

__all__ = ["render_error", "router", "to_request", "to_response"]

DIALECT = "native"
ROLES: dict[Mode, dict[str, ImageRole]] = {
    Mode.TEXT2IMG: {},
    Mode.IMG2IMG: {"input_image": ImageRole.INIT},
    Mode.FILL: {"input_image": ImageRole.INIT, "mask_image": ImageRole.MASK},
    Mode.CONTROLNET: {"control_image": ImageRole.CONTROL},
    Mode.REDUX: {"input_image": ImageRole.REFERENCE},
}
"""Which picture fields a mode takes, and what for (§4.2); it needs all of them."""

router = APIRouter(route_class=NativeRoute)
DOCS = answers(
    Generated,
    "The finished picture. With an image type in Accept: its bytes, in the format that "
    "Content-Type names, with X-Task-Id and X-Seed.",
) | {202: {"model": Accepted, "description": "Accepted, with `async` or Prefer: respond-async"}}


@router.post(
    "/generate",
    tags=["generation"],
    openapi_extra=takes(GenerateBody, "application/json"),
    responses=DOCS,
)
async def generate(request: Request, caller: GenerationCaller) -> Response:
    """Make pictures from a JSON request; pictures in it are base64."""
    limits, language = runtime_of(request).config.api, visit_of(request).language
    if content_type(request) == "multipart/form-data":
        raise MalformedBody(problem=say(language, "use_upload"))
    body = checked(GenerateBody, await read_json(request, limits), language, synonyms=SYNONYMS)
    given = {name: getattr(body, name) for name in IMAGE_FIELDS if getattr(body, name)}
    return await _generate(request, caller, body, given)


@router.post(
    "/generate/upload",
    tags=["generation"],
    openapi_extra=takes(UploadForm, "multipart/form-data"),
    responses=DOCS,
)
async def generate_upload(request: Request, caller: GenerationCaller) -> Response:
    """Make pictures from a form; pictures are files or base64, `loras` is a JSON list."""
    limits, language = runtime_of(request).config.api, visit_of(request).language
    fields = await read_form(request, limits)
    pictures = {name: fields.pop(name, "") for name in IMAGE_FIELDS}
    given = {name: picture for name, picture in pictures.items() if picture}
    content = from_form(fields)
    if isinstance(content.get("loras"), str):
        content["loras"] = _loras(str(content["loras"]), limits, language)
    body = checked(GenerateFields, content, language, synonyms=SYNONYMS)
    return await _generate(request, caller, body, given)


async def _generate(
    request: Request, caller: KeyRecord, body: GenerateFields, given: Mapping[str, FormValue]
) -> Response:
    """Check, decode the pictures, queue, then wait for the end or answer at once."""
    runtime, visit = runtime_of(request), visit_of(request)
    check(body, given.keys(), runtime.config.api, visit.language)
    key = idempotency_key(request.headers, visit.language)
    waits = not (body.respond_async or prefers_async(request.headers))
    pictures = {name: await _decoded(request, name, value) for name, value in given.items()}
    files = {name: picture.file for name, picture in pictures.items()}
    submitted = await runtime.service.submit(
        caller,
        to_request(body, files, embed_metadata=runtime.config.api.embed_metadata),
        dialect=DIALECT,
        priority=body.priority,
        pictures=list(pictures.values()),
        idempotency=key,
    )
    task = submitted.task
    visit.concerns(task.id)
    headers = {"Idempotency-Replayed": "true"} if submitted.replayed else {}
    if not waits:
        content = accepted(task.id)
        return json_response(content, 202, {"Location": content["status_url"], **headers})
    if submitted.replayed and not task.state.ended:
        raise IdempotencyInFlight(key=key)
    if not task.state.ended:
        task = await until_ended(request, runtime.service, task.id, abandon=key is None)
    if task.state is not TaskState.COMPLETED:
        raise ended_badly(task)
    return await show_finished(request, caller, task, headers)


def check(body: GenerateFields, given: Collection[str], limits: Api, language: Language) -> None:
    """What the model of the body cannot say: lengths that are configured, pictures by mode.

    Raises `ValidationFailed`, `UnknownMode` and `MissingImage`.
    """
    mode = next((mode for mode in MODES if mode == body.mode), None)
    if mode is None:
        raise UnknownMode(mode=body.mode, available=list(MODES))
    limit = limits.max_prompt_chars
    texts = {"prompt": body.prompt, "negative_prompt": body.negative_prompt or ""}
    problems: list[JsonValue] = [
        say(language, "too_long", field=name, limit=limit)
        for name, text in texts.items()
        if len(text) > limit
    ]
    surplus = [name for name in given if name not in ROLES[mode]]
    if body.controlnet_type and mode is not Mode.CONTROLNET:
        surplus.append("controlnet_type")
    problems += [say(language, "not_for_mode", field=name, mode=mode) for name in surplus]
    if problems:
        raise ValidationFailed(problems=problems)
    for name in ROLES[mode]:
        if name not in given:
            raise MissingImage(mode=mode, field=name)


def to_request(
    body: GenerateFields, files: Mapping[str, FileRef], *, embed_metadata: bool
) -> GenerationRequest:
    """The request in common terms. `embed_metadata` is the server's default for it."""
    mode = Mode(body.mode)
    return GenerationRequest(
        model=body.model_id,
        mode=mode,
        prompt=body.prompt,
        negative_prompt=body.negative_prompt or "",
        width=body.width,
        height=body.height,
        count=body.num_images,
        seed=None if body.seed == RANDOM_SEED else body.seed,
        steps=body.num_inference_steps,
        guidance=body.cfg,
        scheduler=body.scheduler,
        strength=body.strength,
        images=tuple(
            _image(files[name], role, body) for name, role in ROLES[mode].items() if name in files
        ),
        loras=tuple(LoraRef(name=lora.name, weight=lora.weight) for lora in body.loras or ()),
        output=Output(
            format=body.output_format,
            metadata=embed_metadata if body.embed_metadata is None else body.embed_metadata,
        ),
    )


def _image(file: FileRef, role: ImageRole, body: GenerateFields) -> InputImage:
    if role is not ImageRole.CONTROL:
        return InputImage(file=file, role=role)
    kind = ControlType(body.controlnet_type) if body.controlnet_type else None
    return InputImage(file=file, role=role, control=Control(type=kind))


async def _decoded(request: Request, name: str, value: FormValue) -> InputPicture:
    runtime = runtime_of(request)
    if isinstance(value, str):
        value = decode_base64(value, name, runtime.config.api, visit_of(request).language)
    return await runtime.service.read_picture(value, name)


def _loras(text: str, limits: Api, language: Language) -> object:
    """A form's `loras`. Raises `ValidationFailed`, since the form itself was readable."""
    if not text.strip():
        return None
    try:
        return parse_json(text.encode(), limits.max_json_depth, language)
    except MalformedBody as error:
        raise ValidationFailed(problems=[f"loras: {error.params['problem']}"]) from None


# Most asked first: routes are tried in this order.
for part in (native_tasks, native_info, native_keys):
    router.routes.extend(part.router.routes)
