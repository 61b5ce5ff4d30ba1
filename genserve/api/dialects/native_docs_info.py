"""The native API's other answers as models, for OpenAPI: information, keys, operation."""

from datetime import datetime
from typing import Literal

from genserve.api.dialects.native_docs import Answer, AuthInfo
from genserve.core.residency import Outcome
from genserve.core.stocktaking import Kind
from genserve.domain.caller import Permission
from genserve.domain.lora import LoraKind
from genserve.domain.pool import WorkerState
from genserve.domain.request import Mode


class Welcome(Answer):
    """What serves here."""

    service: Literal["GenServe"]
    version: str
    status: Literal["healthy", "starting", "unhealthy"]
    model_loaded: bool
    docs: str
    endpoints: list[str]


class WorkerSummary(Answer):
    """A worker process. Memory in bytes."""

    id: str
    device: str
    device_name: str
    state: WorkerState
    reason: str
    loaded: list[str]
    loading: str | None
    memory_total: int | None
    memory_used: int | None
    restarts: int
    busy: bool


class QueueSummary(Answer):
    """The queue. `mean_task_time` in seconds."""

    pending: int
    processing: int
    mean_task_time: float | None


class Health(Answer):
    """Details only for a key with `readonly`."""

    status: Literal["healthy", "starting", "unhealthy"]
    model_loaded: bool
    version: str | None = None
    uptime: float | None = None
    queue: QueueSummary | None = None
    workers: list[WorkerSummary] | None = None
    served_by: dict[str, str] | None = None


class Status(Answer):
    """What the server is doing. `uptime` in seconds."""

    success: Literal[True]
    status: Literal["healthy", "starting", "unhealthy"]
    version: str
    uptime: float
    queue: QueueSummary
    workers: list[WorkerSummary]
    auth_info: AuthInfo


class ModelDefaults(Answer):
    """What the model itself suggests."""

    width: int
    height: int
    steps: int
    guidance: float
    strength: float
    scheduler: str


class ModelSummary(Answer):
    """A model. `served_by` names the model that draws when this one is asked for; `vaes` and
    `embeddings` are the files that a request may name."""

    id: str
    description: str
    modes: list[Mode]
    control_types: list[str]
    schedulers: list[str]
    sigmas: list[str]
    clip_skip: bool
    vaes: list[str]
    embeddings: list[str]
    loras: bool
    negative_prompt: bool
    multiple_of: int
    max_pixels: int
    defaults: ModelDefaults
    installed: bool
    available: bool
    served_by: str | None
    problem: str | None
    loaded: bool
    loaded_on: list[str]


class ModelList(Answer):
    """Every configured model."""

    success: Literal[True]
    models: list[ModelSummary]


class WorkerOutcome(Answer):
    """What one worker did, or will: `queued` after its task. `code` and `detail` when it failed."""

    id: str
    outcome: Outcome
    code: str | None
    detail: str | None


class LoadedModel(Answer):
    """What became of loading or unloading a model. `served_by` is the one that really draws."""

    success: bool
    model_id: str
    served_by: str
    workers: list[WorkerOutcome]


class FoundWeights(Answer):
    """Something in the folders of weights. `problem` names the file and says what to do."""

    kind: Kind
    name: str
    available: bool
    problem: str | None


class Rescanned(Answer):
    """What is different since the last look. `broken` is all that cannot be used now."""

    success: Literal[True]
    added: list[FoundWeights]
    removed: list[FoundWeights]
    changed: list[FoundWeights]
    broken: list[FoundWeights]


class LoraSummary(Answer):
    """A LoRA file. `base` is the family of models it is for; `problem` is why it cannot be used."""

    name: str
    size_bytes: int
    sha256: str | None
    base: str | None
    kind: LoraKind | None
    rank: int | None
    trigger_words: list[str]
    available: bool
    problem: str | None


class LoraList(Answer):
    """Every LoRA that was found."""

    success: Literal[True]
    loras: list[LoraSummary]


class KeySummary(Answer):
    """An API key without the key. Either id deletes it."""

    key_id: str
    alias_id: str
    name: str
    owner: str
    permissions: list[Permission]
    source: str
    priority_floor: int
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class KeyList(Answer):
    """Every API key."""

    success: Literal[True]
    keys: list[KeySummary]
    total: int


class NewKey(Answer):
    """The only time that the key itself is shown."""

    success: Literal[True]
    api_key: str
    key_id: str
    name: str
    permissions: list[Permission]
    expires_at: datetime | None
    owner: str


class DeletedKeys(Answer):
    """What was deleted."""

    success: Literal[True]
    deleted: list[KeySummary]


class ReloadedKeys(Answer):
    """Ids of the keys that were added and revoked."""

    success: Literal[True]
    added: list[str]
    revoked: list[str]
    unchanged: int


class Ready(Answer):
    """Each check is `ok` or says what is wrong."""

    status: Literal["ready", "not ready"]
    checks: dict[str, str]


class Alive(Answer):
    """The process answers."""

    status: Literal["ok"]
