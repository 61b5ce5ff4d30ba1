"""GenServe's own API: the dialect's four names, POST /generate and POST /generate/upload.

The other routes are in `native_tasks`, `native_info`, `native_loading` and `native_keys`; what is
sent is in `native_models`, what is answered in `native_answers`.
"""

from collections.abc import Collection, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import JsonValue

from genserve.api.auth import GenerationCaller, runtime_of, visit_of
from genserve.api.body import FormValue, content_type, parse_json, read_form, read_json
from genserve.api.dialects import (
    native_info,
    native_keys,
    native_loading,
    native_tasks,
    native_tools,
)
from genserve.api.dialects.native_answers import (
    render_error,
    to_response,
)
from genserve.api.dialects.native_control import made_from_photo, threshold_problems
from genserve.api.dialects.native_docs import UploadForm, takes_any
from genserve.api.dialects.native_models import (
    IMAGE_FIELDS,
    MODES,
    RANDOM_SEED,
    SYNONYMS,
    GenerateBody,
    GenerateFields,
    from_form,
)
from genserve.api.dialects.native_route import NativeRoute
from genserve.api.dialects.native_submit import DONE, decoded, submit
from genserve.api.dialects.native_tool_models import UpscaleBody, UpscaleForm
from genserve.api.dialects.native_tools import upscale
from genserve.api.language import say
from genserve.api.problems import checked
from genserve.config import Api
from genserve.core.catalog import Catalog
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
from genserve.errors import (
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
    Mode.EDIT: {"input_image": ImageRole.REFERENCE},
}
"""Which picture fields a mode takes, and what for (§4.2); it needs all of them."""
OPTIONAL_ROLES: dict[Mode, dict[str, ImageRole]] = {
    Mode.CONTROLNET: {"input_image": ImageRole.INIT, "mask_image": ImageRole.MASK},
}
"""Which it takes beside them: a picture to start from, redrawn along the control picture, and a
mask of what of it."""
WITHOUT_STRENGTH = frozenset({Mode.TEXT2IMG, Mode.EDIT})
"""Modes that begin at noise alone; so does controlnet without a picture to start from."""

STEERING = {"weight": "control_weight", "start": "control_start", "end": "control_end"}
"""A control's values by the fields that say them."""
CONTROL_FIELDS = (
    "controlnet_type",
    "preprocess",
    "low_threshold",
    "high_threshold",
    *STEERING.values(),
)

router = APIRouter(route_class=NativeRoute)


@router.post(
    "/generate",
    tags=["generation"],
    openapi_extra=takes_any({"application/json": (GenerateBody, UpscaleBody)}),
    responses=DONE,
)
async def generate(request: Request, caller: GenerationCaller) -> Response:
    """Make pictures from a JSON request; pictures in it are base64."""
    limits, language = runtime_of(request).config.api, visit_of(request).language
    if content_type(request) == "multipart/form-data":
        raise MalformedBody(problem=say(language, "use_upload"))
    content = await read_json(request, limits)
    if content.get("mode") == Mode.UPSCALE:
        return await upscale(request, caller, content)
    body = checked(GenerateBody, content, language, synonyms=SYNONYMS)
    given = {name: getattr(body, name) for name in IMAGE_FIELDS if getattr(body, name)}
    return await _generate(request, caller, body, given)


@router.post(
    "/generate/upload",
    tags=["generation"],
    openapi_extra=takes_any({"multipart/form-data": (UploadForm, UpscaleForm)}),
    responses=DONE,
)
async def generate_upload(request: Request, caller: GenerationCaller) -> Response:
    """Make pictures from a form; pictures are files or base64, `loras` is a JSON list."""
    limits, language = runtime_of(request).config.api, visit_of(request).language
    fields = await read_form(request, limits)
    if fields.get("mode") == Mode.UPSCALE:
        return await upscale(request, caller, from_form(fields))
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
    check_thresholds(body, runtime.catalog, visit.language)
    pictures = await decoded(request, given)
    files = {name: picture.file for name, picture in pictures.items()}
    return await submit(
        request,
        caller,
        to_request(body, files, embed_metadata=runtime.config.api.embed_metadata),
        list(pictures.values()),
        priority=body.priority,
        respond_async=body.respond_async,
    )


def check(body: GenerateFields, given: Collection[str], limits: Api, language: Language) -> None:
    """What the model of the body cannot say: lengths that are configured, pictures by mode.

    Raises `ValidationFailed`, `UnknownMode` and `MissingImage`.
    """
    mode = next((mode for mode in MODES if mode == body.mode), None)
    if mode is None:
        raise UnknownMode(mode=body.mode, available=[*MODES, Mode.UPSCALE])
    limit = limits.max_prompt_chars
    texts = {"prompt": body.prompt, "negative_prompt": body.negative_prompt or ""}
    problems: list[JsonValue] = [
        say(language, "too_long", field=name, limit=limit)
        for name, text in texts.items()
        if len(text) > limit
    ]
    problems += _without_effect(body, given, mode, language)
    if problems:
        raise ValidationFailed(problems=problems)
    for name in ROLES[mode]:
        if name not in given:
            raise MissingImage(mode=mode, field=name)


def _without_effect(
    body: GenerateFields, given: Collection[str], mode: Mode, language: Language
) -> list[JsonValue]:
    """What was sent and would count for nothing: it is refused rather than dropped in silence."""
    strength = ["strength"] * (body.strength is not None)
    surplus = [name for name in given if name not in roles_of(mode)]
    surplus += strength * (mode in WITHOUT_STRENGTH)
    alone: list[str] = []
    if mode is not Mode.CONTROLNET:
        values = {name: getattr(body, name) for name in CONTROL_FIELDS}
        surplus += [n for n, value in values.items() if value is not None and value is not False]
    elif "input_image" not in given:
        alone = [name for name in given if name == "mask_image"] + strength
    return [
        *(say(language, "not_for_mode", field=name, mode=mode) for name in surplus),
        *(say(language, "only_beside", field=name, other="input_image") for name in alone),
    ]


def roles_of(mode: Mode) -> dict[str, ImageRole]:
    """Every picture field that a mode may be given, and what for."""
    return ROLES[mode] | OPTIONAL_ROLES.get(mode, {})


def check_thresholds(body: GenerateFields, catalog: Catalog, language: Language) -> None:
    """Canny's thresholds are for canny maps that are to be made. Raises `ValidationFailed`."""
    kind = None
    if body.preprocess:
        asked = body.controlnet_type
        kind = ControlType(asked) if asked else catalog.default_control(body.model_id)
    problems = threshold_problems(body.low_threshold, body.high_threshold, kind, language)
    if problems:
        raise ValidationFailed(problems=problems)


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
        width=_said(body, "width"),
        height=_said(body, "height"),
        count=body.num_images,
        seed=None if body.seed == RANDOM_SEED else body.seed,
        steps=_said(body, "num_inference_steps"),
        guidance=_said(body, "cfg"),
        scheduler=body.scheduler,
        sigmas=body.sigmas,
        clip_skip=body.clip_skip,
        vae=body.vae,
        strength=body.strength,
        images=tuple(
            _image(files[name], role, body)
            for name, role in roles_of(mode).items()
            if name in files
        ),
        loras=tuple(LoraRef(**lora.model_dump()) for lora in body.loras or ()),
        output=Output(
            format=body.output_format,
            metadata=embed_metadata if body.embed_metadata is None else body.embed_metadata,
        ),
        preview=body.preview,
    )


def _said(body: GenerateFields, field: str) -> Any:
    """A field whose documented default is the default model's: another model has its own."""
    own_defaults = "model_id" in body.model_fields_set and field not in body.model_fields_set
    return None if own_defaults else getattr(body, field)


def _image(file: FileRef, role: ImageRole, body: GenerateFields) -> InputImage:
    if role is not ImageRole.CONTROL:
        return InputImage(file=file, role=role)
    kind = ControlType(body.controlnet_type) if body.controlnet_type else None
    control = Control(type=kind)
    if body.preprocess:
        control = made_from_photo(kind, body.low_threshold, body.high_threshold)
    asked = {name: getattr(body, field) for name, field in STEERING.items()}
    told = {name: value for name, value in asked.items() if value is not None}
    return InputImage(file=file, role=role, control=control.model_copy(update=told))


def _loras(text: str, limits: Api, language: Language) -> object:
    """A form's `loras`. Raises `ValidationFailed`, since the form itself was readable."""
    if not text.strip():
        return None
    try:
        return parse_json(text.encode(), limits.max_json_depth, language)
    except MalformedBody as error:
        raise ValidationFailed(problems=[f"loras: {error.params['problem']}"]) from None


# Most asked first: routes are tried in this order.
for part in (native_tasks, native_info, native_tools, native_loading, native_keys):
    router.routes.extend(part.router.routes)
