"""What happens to a task, as watchers see it: a closed union, dispatched with `assert_never`."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from genserve.domain.request import Value
from genserve.domain.task import ErrorInfo


class Queued(Value):
    """Waiting. `position` counts from 1; `eta_s` is a guess, absent without a basis for one."""

    kind: Literal["queued"] = "queued"
    position: int
    eta_s: float | None = None


class Loading(Value):
    """A worker took it and reads the model first."""

    kind: Literal["loading"] = "loading"
    model: str


class Started(Value):
    """Work on the picture has begun."""

    kind: Literal["started"] = "started"
    worker: str
    attempt: int


class Progress(Value):
    """`step` of `total` steps are done, over all pictures of the task.

    `preview`: at most twice a second, what the picture looks like so far: a JPEG of at most 256
    pixels on a side, as a data URI.
    """

    kind: Literal["progress"] = "progress"
    step: int
    total: int
    preview: str | None = None


class Finished(Value):
    """Ended well; the pictures are in the task."""

    kind: Literal["finished"] = "finished"


class Failed(Value):
    """Ended badly."""

    kind: Literal["failed"] = "failed"
    error: ErrorInfo


class Cancelled(Value):
    """Ended by its owner or by a client that hung up."""

    kind: Literal["cancelled"] = "cancelled"


TaskEvent = Annotated[
    Queued | Loading | Started | Progress | Finished | Failed | Cancelled,
    Field(discriminator="kind"),
]
TASK_EVENT: TypeAdapter[TaskEvent] = TypeAdapter(TaskEvent)


def is_final(event: TaskEvent) -> bool:
    """Whether nothing follows."""
    return isinstance(event, Finished | Failed | Cancelled)
