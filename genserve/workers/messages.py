"""Every message between the server and a worker process: all that crosses the pipe.

Frozen values, told apart by `kind`, one JSON line each; no pickles, and no pixels but those of
small previews. The parent is asyncio (`process.py`), the child is synchronous (`channel.py`).
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from genserve.domain.model import ModelSpec
from genserve.domain.pool import Assignment
from genserve.domain.request import Value
from genserve.domain.task import ErrorInfo, Result

UNFIT_EXIT_CODE = 3
"""A child that ends so before `Ready` is not fit, and starting it again would not help."""
MAX_LINE_BYTES = 8 * 1024 * 1024
"""Far above any message; bounds what is buffered."""


# From the parent


class Run(Value):
    kind: Literal["run"] = "run"
    assignment: Assignment


class Cancel(Value):
    kind: Literal["cancel"] = "cancel"
    task_id: str
    attempt: int


class Prepare(Value):
    kind: Literal["prepare"] = "prepare"
    model: ModelSpec


class Unload(Value):
    """Give back a model's memory, after the task in hand; `Models` follows, whatever was there."""

    kind: Literal["unload"] = "unload"
    model_id: str


class Stop(Value):
    kind: Literal["stop"] = "stop"


# From the child: about itself


class Ready(Value):
    kind: Literal["ready"] = "ready"
    software: dict[str, str] = {}


class StartFailed(Value):
    """The process or its device is not fit; starting it again would not help."""

    kind: Literal["start_failed"] = "start_failed"
    reason: str


class Models(Value):
    """The models in memory, and what they wear (`WorkerInfo.lora_keys`), after every change."""

    kind: Literal["models"] = "models"
    loaded: tuple[str, ...]
    lora_keys: dict[str, str] = {}


class Prepared(Value):
    """The end of a `Prepare`; `error` says why the model could not be read."""

    kind: Literal["prepared"] = "prepared"
    model_id: str
    error: ErrorInfo | None = None


# From the child: about its task
class _OfTask(Value):
    task_id: str
    attempt: int


class Loading(_OfTask):
    kind: Literal["loading"] = "loading"
    model: str


class Started(_OfTask):
    kind: Literal["started"] = "started"


class Step(_OfTask):
    """`preview`: now and then, what the picture looks like; a small JPEG as a data URI."""

    kind: Literal["step"] = "step"
    step: int
    total: int
    preview: str | None = None


class Decoding(_OfTask):
    kind: Literal["decoding"] = "decoding"


class Done(_OfTask):
    kind: Literal["done"] = "done"
    result: Result


class Failed(_OfTask):
    """`fatal`: the process is no longer fit and ends itself; `crashed`: the task may be why."""

    kind: Literal["failed"] = "failed"
    error: ErrorInfo
    retry: bool = False
    fatal: bool = False
    crashed: bool = False


class Stopped(_OfTask):
    kind: Literal["stopped"] = "stopped"


ToChild = Annotated[Run | Cancel | Prepare | Unload | Stop, Field(discriminator="kind")]
TaskMessage = Loading | Started | Step | Decoding | Done | Failed | Stopped
ToParent = Annotated[
    Ready | StartFailed | Models | Prepared | TaskMessage, Field(discriminator="kind")
]

TO_CHILD: TypeAdapter[ToChild] = TypeAdapter(ToChild)
TO_PARENT: TypeAdapter[ToParent] = TypeAdapter(ToParent)


def to_line(message: Value) -> bytes:
    """A message as it goes over the pipe. JSON text holds no raw newline."""
    return message.model_dump_json().encode() + b"\n"
