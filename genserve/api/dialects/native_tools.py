"""The native API's picture tools: control maps from photos, and enlarging.

POST /generate hands on what has mode `upscale`: its fields are others than those of a picture that
is drawn.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from genserve.api.auth import GenerationCaller, ReadonlyCaller, runtime_of, visit_of
from genserve.api.body import FormValue, content_type, read_form, read_json
from genserve.api.dialects.native_answers import json_response
from genserve.api.dialects.native_control import made_from_photo, threshold_problems
from genserve.api.dialects.native_docs import answers, takes_any
from genserve.api.dialects.native_docs_tools import PreprocessorList
from genserve.api.dialects.native_models import from_form
from genserve.api.dialects.native_route import NativeRoute
from genserve.api.dialects.native_submit import DONE, decoded, submit
from genserve.api.dialects.native_tool_models import (
    PREPROCESS_SYNONYMS,
    UPSCALE_SYNONYMS,
    PreprocessBody,
    PreprocessFields,
    PreprocessForm,
    ToolFields,
    UpscaleFields,
)
from genserve.api.language import say
from genserve.api.problems import checked
from genserve.core.inventory import ModelEntry
from genserve.core.picture_tools import preprocessors
from genserve.domain.caller import KeyRecord
from genserve.domain.request import (
    MAX_THRESHOLD,
    Control,
    ControlType,
    FileRef,
    GenerationRequest,
    ImageRole,
    InputImage,
    Mode,
    Output,
)
from genserve.errors import MissingImage, ValidationFailed

router = APIRouter(route_class=NativeRoute)
F = TypeVar("F", bound=ToolFields)

PICTURE = "input_image"
"""The one picture that a tool takes."""


@router.get("/preprocessors", tags=["information"], responses=answers(PreprocessorList, "All"))
async def list_preprocessors(request: Request, _: ReadonlyCaller) -> Response:
    """What makes control maps from photos, and what is missing for it."""
    found = [_described(entry) for entry in preprocessors(runtime_of(request).catalog.models())]
    return json_response({"success": True, "preprocessors": found})


@router.post(
    "/preprocess",
    tags=["generation"],
    openapi_extra=takes_any(
        {"application/json": (PreprocessBody,), "multipart/form-data": (PreprocessForm,)}
    ),
    responses=DONE,
)
async def preprocess(request: Request, caller: GenerationCaller) -> Response:
    """Make a control map from a photo, sent as JSON or as a form."""
    limits, language = runtime_of(request).config.api, visit_of(request).language
    if content_type(request) == "multipart/form-data":
        content: Mapping[str, Any] = from_form(await read_form(request, limits))
    else:
        content = await read_json(request, limits)
    body, picture = _read(request, PreprocessFields, content, PREPROCESS_SYNONYMS)
    if picture is None:
        raise MissingImage(mode=Mode.PREPROCESS, field=PICTURE)
    kind = runtime_of(request).catalog.default_control(body.preprocessor)
    low, high = body.low_threshold, body.high_threshold
    problems = threshold_problems(low, high, kind, language)
    if problems:
        raise ValidationFailed(problems=problems)
    control = made_from_photo(kind, low, high)
    return await _use(request, caller, body, picture, (body.preprocessor, control))


async def upscale(request: Request, caller: KeyRecord, content: Mapping[str, Any]) -> Response:
    """POST /generate and /generate/upload with mode `upscale`. `content` is what was sent."""
    language = visit_of(request).language
    body, picture = _read(request, UpscaleFields, content, UPSCALE_SYNONYMS)
    if picture is None:
        raise MissingImage(mode=Mode.UPSCALE, field=PICTURE)
    if body.scale is not None and (body.width or body.height):
        raise ValidationFailed(problems=[say(language, "scale_or_size", field="scale")])
    return await _use(request, caller, body, picture, (body.model_id, None))


def _read(
    request: Request, model: type[F], content: Mapping[str, Any], synonyms: Mapping[str, str]
) -> tuple[F, FormValue | None]:
    """The fields, and the picture beside them: a text in JSON, a file or a text in a form."""
    rest = dict(content)
    picture = rest.pop(PICTURE, None)
    body = checked(model, rest, visit_of(request).language, synonyms=synonyms)
    if picture is not None and not isinstance(picture, str | bytes):
        problem = say(visit_of(request).language, "text", field=PICTURE)
        raise ValidationFailed(problems=[problem])
    return body, picture or None


async def _use(
    request: Request,
    caller: KeyRecord,
    body: UpscaleFields | PreprocessFields,
    picture: FormValue,
    what: tuple[str, Control | None],
) -> Response:
    """Decode, queue and answer. `what` is the model's id and, for a map, how it is made."""
    pictures = await decoded(request, {PICTURE: picture})
    config = runtime_of(request).config.api
    wanted = to_request(
        body, pictures[PICTURE].file, what[0], what[1], embed_metadata=config.embed_metadata
    )
    return await submit(
        request,
        caller,
        wanted,
        list(pictures.values()),
        priority=body.priority,
        respond_async=body.respond_async,
    )


def to_request(
    body: UpscaleFields | PreprocessFields,
    file: FileRef,
    model_id: str,
    control: Control | None,
    *,
    embed_metadata: bool,
) -> GenerationRequest:
    """The request in common terms: a map with `control`, an enlargement without."""
    mode, role = Mode.PREPROCESS, ImageRole.CONTROL
    width, height = body.width, body.height
    if isinstance(body, UpscaleFields):
        mode, role = Mode.UPSCALE, ImageRole.REFERENCE
        if body.scale is not None:
            width, height = (max(1, round(side * body.scale)) for side in (file.width, file.height))
    return GenerationRequest(
        model=model_id,
        mode=mode,
        prompt="",
        width=width,
        height=height,
        seed=0,
        images=(InputImage(file=file, role=role, control=control),),
        output=Output(
            format=body.output_format,
            metadata=embed_metadata if body.embed_metadata is None else body.embed_metadata,
        ),
    )


def _described(entry: ModelEntry) -> dict[str, Any]:
    spec, kinds = entry.spec, entry.spec.capabilities.control_types
    missing = None
    if not entry.installed:
        missing = entry.problem or f"models/{spec.folder.name}"
    return {
        "id": spec.id,
        "description": spec.description,
        "control_types": list(kinds),
        "installed": entry.installed,
        "missing": missing,
        "parameters": _parameters() if ControlType.CANNY in kinds else [],
    }


def _parameters() -> list[dict[str, Any]]:
    defaults = Control()
    values = {
        "low_threshold": defaults.low_threshold,
        "high_threshold": defaults.high_threshold,
    }
    return [
        {"name": name, "default": value, "minimum": 0, "maximum": MAX_THRESHOLD}
        for name, value in values.items()
    ]
