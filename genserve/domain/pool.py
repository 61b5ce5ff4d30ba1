"""The seam between the dispatcher and whatever runs tasks: GPU processes here, or elsewhere."""

from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Protocol

from genserve.domain.lora import LoraSource
from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest, Value
from genserve.domain.task import Degraded, ErrorInfo, Result


class WorkerState(StrEnum):
    """A worker's life. `BROKEN` failed at start-up and is not restarted in a loop."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    RESTARTING = "restarting"
    BROKEN = "broken"
    STOPPED = "stopped"


class WorkerInfo(Value):
    """A worker as `/status` shows it. Memory in bytes; `loaded` are model ids in memory."""

    id: str
    device: str
    device_name: str = ""
    state: WorkerState
    pid: int | None = None
    loaded: tuple[str, ...] = ()
    loading: str = ""
    """The model that is being read."""
    lora_keys: dict[str, str] = {}
    """What loaded models wear (`GenerationRequest.lora_key`), by model id; absent: nothing."""
    memory_total: int | None = None
    memory_used: int | None = None
    task_id: str | None = None
    reason: str = ""
    """Why it is broken or restarting."""
    restarts: int = 0


class Assignment(Value):
    """One attempt at a task, self-contained: all that a worker must know."""

    task_id: str
    attempt: int
    token: str
    epoch: int
    request: GenerationRequest
    """Complete: no `None` left that the recipe would have to guess."""
    model: ModelSpec
    """The model that draws: the stand-in where one stands in."""
    preprocessor: ModelSpec | None = None
    """What makes the control map, where the control picture is a photo."""
    time_limit_s: float
    inputs: dict[str, str] = {}
    """sha256 → file to read."""
    loras: dict[str, LoraSource] = {}
    """The request's LoRAs by name: the files to read."""
    output_folder: str
    """The blob store's folder, which the worker writes finished pictures to."""
    previews: bool = True
    """Whether to show now and then what the picture looks like so far."""
    degraded: tuple[Degraded, ...] = ()
    """What earlier attempts have made the answer say."""


class _AboutTask(Value):
    task_id: str
    attempt: int
    worker: str


class WorkerUp(Value):
    """A worker can take work (again)."""

    worker: WorkerInfo


class WorkerChanged(Value):
    """A worker's models, memory or state changed without its coming up or going down."""

    worker: WorkerInfo


class WorkerDown(Value):
    """A worker cannot take work; its task, if any, was reported as failed before."""

    worker: WorkerInfo


class ModelNotLoaded(Value):
    """A model that was to be read ahead of demand could not be."""

    worker: str
    model: str
    error: ErrorInfo


class TaskLoading(_AboutTask):
    """The worker reads the model; the time limit does not run."""

    model: str


class TaskStarted(_AboutTask):
    """Work on the picture began; the time limit runs."""


class TaskProgress(_AboutTask):
    """`step` of `total` steps are done. `preview`: now and then, a small JPEG as a data URI."""

    step: int
    total: int
    preview: str | None = None


class TaskDone(_AboutTask):
    """The pictures lie in the output folder."""

    token: str
    result: Result


class TaskFailed(_AboutTask):
    """`crashed`: the worker died under it, which counts towards poison; `retry`: try again."""

    token: str
    error: ErrorInfo
    crashed: bool = False
    retry: bool = False


class TaskStopped(_AboutTask):
    """Cancelled inside the worker, or given back at a drain (`returned`)."""

    token: str
    returned: bool = False


PoolEvent = (
    WorkerUp
    | WorkerChanged
    | WorkerDown
    | ModelNotLoaded
    | TaskLoading
    | TaskStarted
    | TaskProgress
    | TaskDone
    | TaskFailed
    | TaskStopped
)


class WorkerPool(Protocol):
    """Runs assignments and tells what happens; decides nothing about order."""

    async def start(self) -> None:
        """Start the workers; returns at once, `WorkerUp` follows for each."""
        ...

    def workers(self) -> tuple[WorkerInfo, ...]:
        """The workers as they are now."""
        ...

    async def submit(self, worker_id: str, assignment: Assignment) -> None:
        """Give an idle worker its next task. Raises `LookupError` when it is not idle."""
        ...

    async def cancel(self, worker_id: str, task_id: str, attempt: int) -> None:
        """Stop a task at its next step; `TaskStopped` or `TaskDone` follows."""
        ...

    async def kill(self, worker_id: str) -> None:
        """End the worker's process at once; its task is reported, and it is started again."""
        ...

    async def prepare(self, worker_id: str, model: ModelSpec) -> None:
        """Load a model into an idle worker ahead of demand. Raises `LookupError` when it is not.

        `WorkerChanged` follows when the worker is idle again, after `ModelNotLoaded` if it failed.
        """
        ...

    async def unload(self, worker_id: str, model_id: str) -> None:
        """Give back a model's memory: at once when idle, otherwise after what it is busy with.

        `WorkerChanged` follows, whether or not the model was there, unless the worker dies first.
        """
        ...

    def events(self) -> AsyncIterator[PoolEvent]:
        """Everything that happens, once, in order per worker. One reader."""
        ...

    async def stop(self, drain_s: float) -> None:
        """Let running tasks end for `drain_s` seconds, give the rest back, end every process."""
        ...
