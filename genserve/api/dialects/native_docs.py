"""The native API's answers as models, for OpenAPI; a test holds real answers against them.

Answers are built as plain dictionaries in `native_answers`, since checking each one again on its
way out would cost more than the rest of the request.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, WithJsonSchema

from genserve.api.dialects.native_models import GenerateFields
from genserve.domain.caller import Permission
from genserve.domain.request import Mode
from genserve.domain.task import TaskState


class Answer(BaseModel):
    """Part of an answer."""

    model_config = ConfigDict(extra="forbid")


class AuthError(Answer):
    """§5.3: 401 and 403."""

    detail: str


class Error(Answer):
    """§5.2: every other error. `task_id` when the error is a task's."""

    success: Literal[False]
    error: str
    detail: str
    code: str
    task_id: str | None


class AuthInfo(Answer):
    """Who asked."""

    user: str
    permissions: list[Permission]


class UsedLora(Answer):
    """A LoRA that was used."""

    name: str
    weight: float
    text_weight: float | None


class Rung(Answer):
    """A departure from what was asked for, as a rung of the out-of-memory ladder."""

    code: str
    detail: str


class Metadata(Answer):
    """What made the picture. Times in seconds; `seeds` one for each picture.

    `cfg`, `steps`, `scheduler` and `strength` are null where nothing was drawn: of a control map
    and an enlarged picture; `strength` also where drawing began at noise alone.
    """

    prompt: str
    negative_prompt: str
    model_id: str
    mode: Mode
    generation_time: float
    seed: int
    cfg: float | None
    steps: int | None
    width: int
    height: int
    scheduler: str | None
    sigmas: str | None
    clip_skip: int | None
    vae: str | None
    strength: float | None
    loras: list[UsedLora]
    seeds: list[int]
    served_by: str
    native_width: int
    native_height: int
    upscaled: bool
    degraded: list[Rung]
    load_time: float
    queue_time: float | None


class Generated(Answer):
    """§5.1. `image` is the first picture as a data URI, `images` all of them."""

    success: Literal[True]
    task_id: str
    image: str
    images: list[str]
    image_urls: list[str]
    metadata: Metadata
    auth_info: AuthInfo


class Accepted(Answer):
    """202: the task waits in the queue."""

    success: Literal[True]
    task_id: str
    status: Literal["pending"]
    status_url: str
    events_url: str


class Steps(Answer):
    """How far a running task is."""

    step: int
    total: int
    percent: float


class TaskSummary(Answer):
    """A task without its pictures; `error`, `detail` and `code` when it ended badly."""

    success: bool
    task_id: str
    status: TaskState
    model_id: str
    mode: Mode
    priority: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None
    detail: str | None
    code: str | None
    image_urls: list[str]


class TaskAnswer(TaskSummary):
    """A task with all that is known; the picture fields when it is completed."""

    stage: Literal["queued", "loading", "started", "progress"] | None
    position: int | None
    eta: float | None
    progress: Steps | None
    image: str | None
    images: list[str]
    metadata: Metadata | None
    auth_info: AuthInfo


class TaskList(Answer):
    """Newest first. `next` is the `before` of the following page; null on the last."""

    success: Literal[True]
    tasks: list[TaskSummary]
    next: str | None


Binary = Annotated[bytes | None, WithJsonSchema({"type": "string", "format": "binary"})]


class UploadForm(GenerateFields):
    """POST /generate/upload: every field as text, `loras` as a JSON list in a text."""

    input_image: Binary = None
    mask_image: Binary = None
    control_image: Binary = None


def answers(
    model: type[BaseModel], description: str, **more: Any
) -> dict[int | str, dict[str, Any]]:
    """A route's `responses`: 200 with `model`."""
    return {200: {"model": model, "description": description, **more}}


def takes(model: type[BaseModel], *media_types: str) -> dict[str, Any]:
    """A route's `openapi_extra`: a body that is a `model` in any of `media_types`."""
    return takes_any({media_type: (model,) for media_type in media_types})


def takes_any(models: Mapping[str, tuple[type[BaseModel], ...]]) -> dict[str, Any]:
    """A route's `openapi_extra`: by media type, which models a body may be.

    The routes read bodies themselves, after the key was checked; FastAPI would read them before.
    """
    content = {}
    for media_type, choices in models.items():
        refs = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in choices]
        content[media_type] = {"schema": refs[0] if len(refs) == 1 else {"oneOf": refs}}
    return {"requestBody": {"required": True, "content": content}}
