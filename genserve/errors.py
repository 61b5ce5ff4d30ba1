"""Every error that a user can meet, as one tree.

    GenServeError
    ├── InvalidRequest 400     what was asked for does not exist or does not fit the model
    ├── ValidationFailed 422   a field has the wrong type or is out of range
    ├── Unauthorized 401, Forbidden 403
    ├── NotFound 404, Conflict 409, TooLarge 413, TooSlow 408
    ├── LimitReached 429       the caller's own limit
    ├── Unavailable 503        the server's limit
    ├── TaskEndedBadly 5xx     the task was accepted and did not make a picture
    ├── StartupError           the server or command cannot start; exit code 2
    └── CommandFailed          a command cannot do what it was asked; exit code 1 or 3

A class knows its code, status and whether the same request may succeed later. Its words live in
`genserve/texts/<language>.yaml`, keyed by code, so that an error that was stored with a task can
be told again in another language. `params` are the names that the words may use.
"""

from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

import yaml
from pydantic import JsonValue

Language = Literal["en", "zh"]


class GenServeError(Exception):
    """Base of the tree. `params` must be exactly the names in `names`."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **params: JsonValue) -> None:
        if set(params) != set(self.names):
            raise TypeError(f"{type(self).__name__} takes {self.names}, not {tuple(params)}")
        self.params = params
        super().__init__(self.detail("en"))

    def title(self, language: Language) -> str:
        """The short text: what went wrong."""
        return _texts(language)[self.code]["error"].format_map(_shown(self.params))

    def detail(self, language: Language) -> str:
        """The long text: what was wrong and what would be right."""
        return _texts(language)[self.code]["detail"].format_map(_shown(self.params))

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which the same request may succeed, where that is known."""
        value = self.params.get("retry_after_s")
        return float(value) if isinstance(value, (int, float)) else None


def _shown(params: dict[str, JsonValue]) -> dict[str, str]:
    return {name: _show(value) for name, value in params.items()}


def _show(value: JsonValue) -> str:
    if isinstance(value, list):
        return ", ".join(_show(item) for item in value) or "-"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


@cache
def _texts(language: Language) -> dict[str, dict[str, str]]:
    path = Path(__file__).parent / "texts" / f"{language}.yaml"
    texts: dict[str, dict[str, str]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return texts


# 400: what was asked for does not exist or does not fit the model


class InvalidRequest(GenServeError):
    code = "bad_request"
    status = 400
    names: ClassVar[tuple[str, ...]] = ("problem",)


class MalformedBody(InvalidRequest):
    """`problem`: what the parser found, in words that name no file and no address."""

    code = "malformed_body"


class UnknownModel(InvalidRequest):
    code = "unknown_model"
    names: ClassVar[tuple[str, ...]] = ("model", "available")


class ModelNotInstalled(InvalidRequest):
    code = "model_not_installed"
    names: ClassVar[tuple[str, ...]] = ("model", "folder")


class ModelBroken(InvalidRequest):
    """The model's folder is there but cannot be used; `reason` names the file."""

    code = "model_broken"
    names: ClassVar[tuple[str, ...]] = ("model", "reason")


class UnsupportedMode(InvalidRequest):
    code = "unsupported_mode"
    names: ClassVar[tuple[str, ...]] = ("model", "mode", "supported")


class UnknownMode(InvalidRequest):
    code = "unknown_mode"
    names: ClassVar[tuple[str, ...]] = ("mode", "available")


class UnsupportedControl(InvalidRequest):
    code = "unsupported_control"
    names: ClassVar[tuple[str, ...]] = ("model", "control", "supported")


class UnknownScheduler(InvalidRequest):
    code = "unknown_scheduler"
    names: ClassVar[tuple[str, ...]] = ("model", "scheduler", "supported")


class UnknownLora(InvalidRequest):
    code = "unknown_lora"
    names: ClassVar[tuple[str, ...]] = ("lora", "available")


class UnsupportedLora(InvalidRequest):
    code = "unsupported_lora"
    names: ClassVar[tuple[str, ...]] = ("model",)


class UnsupportedNegativePrompt(InvalidRequest):
    code = "unsupported_negative_prompt"
    names: ClassVar[tuple[str, ...]] = ("model",)


class MissingImage(InvalidRequest):
    code = "missing_image"
    names: ClassVar[tuple[str, ...]] = ("mode", "field")


class BadImage(InvalidRequest):
    """`field` is the request's field; `problem` says what is wrong with the picture."""

    code = "bad_image"
    names: ClassVar[tuple[str, ...]] = ("field", "problem")


# 422: a field has the wrong type or is out of range


class ValidationFailed(GenServeError):
    """`problems`: one text per field, as "steps: must be between 1 and 100"."""

    code = "validation_error"
    status = 422
    names: ClassVar[tuple[str, ...]] = ("problems",)


class SizeNotMultiple(ValidationFailed):
    code = "size_not_multiple"
    names: ClassVar[tuple[str, ...]] = ("model", "multiple", "width", "height")


class TooManyPixels(ValidationFailed):
    code = "too_many_pixels"
    names: ClassVar[tuple[str, ...]] = ("model", "width", "height", "max_pixels")


class IdempotencyMismatch(ValidationFailed):
    code = "idempotency_mismatch"
    names: ClassVar[tuple[str, ...]] = ("key",)


# 401, 403


class Unauthorized(GenServeError):
    code = "missing_key"
    status = 401


class InvalidKey(Unauthorized):
    code = "invalid_key"


class ExpiredKey(Unauthorized):
    code = "expired_key"
    names: ClassVar[tuple[str, ...]] = ("expired_at",)


class Forbidden(GenServeError):
    code = "forbidden"
    status = 403
    names: ClassVar[tuple[str, ...]] = ("needed", "granted")


class PriorityForbidden(Forbidden):
    code = "priority_forbidden"
    names: ClassVar[tuple[str, ...]] = ("priority", "lowest")


# 404, 405, 408, 409, 413


class NotFound(GenServeError):
    code = "not_found"
    status = 404
    names: ClassVar[tuple[str, ...]] = ("path",)


class TaskNotFound(NotFound):
    code = "task_not_found"
    names: ClassVar[tuple[str, ...]] = ("task_id",)


class ImageNotFound(NotFound):
    code = "image_not_found"
    names: ClassVar[tuple[str, ...]] = ("name",)


class KeyNotFound(NotFound):
    code = "key_not_found"
    names: ClassVar[tuple[str, ...]] = ("key",)


class MethodNotAllowed(GenServeError):
    code = "method_not_allowed"
    status = 405
    names: ClassVar[tuple[str, ...]] = ("method", "path")


class TooSlow(GenServeError):
    code = "request_too_slow"
    status = 408
    names: ClassVar[tuple[str, ...]] = ("limit_s",)


class Conflict(GenServeError):
    code = "conflict"
    status = 409
    names: ClassVar[tuple[str, ...]] = ("problem",)


class IdempotencyInFlight(Conflict):
    code = "idempotency_in_flight"
    names: ClassVar[tuple[str, ...]] = ("key",)
    retryable = True


class KeyIsDeclared(Conflict):
    """`variable` names where the key is declared, as "API_KEY_1"."""

    code = "key_is_declared"
    names: ClassVar[tuple[str, ...]] = ("key", "variable")


class AmbiguousKey(Conflict):
    code = "ambiguous_key"
    names: ClassVar[tuple[str, ...]] = ("key", "matches")


class MasterKeyIsConfigured(Conflict):
    """A configured encryption key is rotated in the configuration, named by `variable`."""

    code = "master_key_is_configured"
    names: ClassVar[tuple[str, ...]] = ("variable",)


class TaskAlreadyEnded(Conflict):
    code = "task_already_ended"
    names: ClassVar[tuple[str, ...]] = ("task_id", "status")


class TooLarge(GenServeError):
    code = "body_too_large"
    status = 413
    names: ClassVar[tuple[str, ...]] = ("limit",)


class ImageTooLarge(TooLarge):
    code = "image_too_large"
    names: ClassVar[tuple[str, ...]] = ("field", "limit")


# 429: the caller's own limit; 503: the server's


class LimitReached(GenServeError):
    code = "rate_limited"
    status = 429
    retryable = True
    names: ClassVar[tuple[str, ...]] = ("limit", "retry_after_s")


class TooManyFailures(LimitReached):
    code = "too_many_auth_failures"


class OwnerQueueFull(LimitReached):
    code = "owner_queue_full"
    names: ClassVar[tuple[str, ...]] = ("limit", "retry_after_s")


class Unavailable(GenServeError):
    code = "unavailable"
    status = 503
    retryable = True
    names: ClassVar[tuple[str, ...]] = ("retry_after_s",)


class QueueFull(Unavailable):
    code = "queue_full"
    names: ClassVar[tuple[str, ...]] = ("limit", "retry_after_s")


class NotReady(Unavailable):
    """No worker can ever serve; `reason` says why, in words without paths."""

    code = "not_ready"
    names: ClassVar[tuple[str, ...]] = ("reason", "retry_after_s")


class StoreUnavailable(Unavailable):
    """The database is locked, read-only or its disk is full; nothing was changed."""

    code = "store_unavailable"
    names: ClassVar[tuple[str, ...]] = ("problem", "retry_after_s")


class ShuttingDown(Unavailable):
    code = "shutting_down"


# The task was accepted and made no picture


class TaskEndedBadly(GenServeError):
    code = "task_failed"


class TaskTimedOut(TaskEndedBadly):
    code = "task_timeout"
    status = 504
    names: ClassVar[tuple[str, ...]] = ("limit_s",)


class WaitedTooLong(TaskEndedBadly):
    code = "queue_timeout"
    status = 504
    names: ClassVar[tuple[str, ...]] = ("limit_s",)


class OutOfMemory(TaskEndedBadly):
    code = "out_of_memory"
    status = 503
    retryable = True
    names: ClassVar[tuple[str, ...]] = ("model",)


class Poisoned(TaskEndedBadly):
    code = "poisoned"
    names: ClassVar[tuple[str, ...]] = ("crashes",)


class WorkerFailed(TaskEndedBadly):
    """`reason` is a short text of ours, never an exception's own."""

    code = "worker_failed"
    names: ClassVar[tuple[str, ...]] = ("reason",)


class BadPicture(TaskEndedBadly):
    code = "bad_picture"
    names: ClassVar[tuple[str, ...]] = ("reason",)


class TaskCancelled(TaskEndedBadly):
    code = "task_cancelled"
    status = 409


class InputLost(TaskEndedBadly):
    code = "input_lost"


# The server or a command cannot start


class StartupError(GenServeError):
    """Printed as one line; the process ends with exit code 2."""

    code = "startup_error"
    names: ClassVar[tuple[str, ...]] = ("problem",)


class ConfigError(StartupError):
    """`problem` names the setting and what would be right."""

    code = "config_error"


class PortInUse(StartupError):
    code = "port_in_use"
    names: ClassVar[tuple[str, ...]] = ("host", "port")


class DataFolderInUse(StartupError):
    code = "data_folder_in_use"
    names: ClassVar[tuple[str, ...]] = ("folder",)


class DatabaseInUse(StartupError):
    code = "database_in_use"
    names: ClassVar[tuple[str, ...]] = ("database",)


class WrongMasterKey(StartupError):
    code = "wrong_master_key"
    names: ClassVar[tuple[str, ...]] = ()


class BadMasterKey(StartupError):
    code = "bad_master_key"
    names: ClassVar[tuple[str, ...]] = ("variable", "length")


class MissingMasterKey(StartupError):
    code = "missing_master_key"
    names: ClassVar[tuple[str, ...]] = ("variable",)


class LookupSecretLost(StartupError):
    """Keys are stored, but not the secret that their digests were made with."""

    code = "lookup_secret_lost"
    names: ClassVar[tuple[str, ...]] = ()


class FileForbidden(StartupError):
    """The file's permissions keep the server from reading or replacing it."""

    code = "file_forbidden"
    names: ClassVar[tuple[str, ...]] = ("file",)


class CannotDecryptFile(StartupError):
    """An encrypted key file of an earlier version that the encryption key does not open."""

    code = "cannot_decrypt_file"
    names: ClassVar[tuple[str, ...]] = ("file",)


class BadKeyFile(StartupError):
    """`problem` names the entry by its number, never by its key."""

    code = "bad_key_file"
    names: ClassVar[tuple[str, ...]] = ("file", "problem")


class UnsafeBinding(StartupError):
    code = "unsafe_binding"
    names: ClassVar[tuple[str, ...]] = ("host",)


# A command cannot do what it was asked


class CommandFailed(GenServeError):
    """Printed as one line; the process ends with exit code 1."""

    code = "command_failed"
    names: ClassVar[tuple[str, ...]] = ("problem",)


class ServerUnreachable(CommandFailed):
    """Exit code 3."""

    code = "server_unreachable"
    names: ClassVar[tuple[str, ...]] = ("url",)


def all_errors() -> dict[str, type[GenServeError]]:
    """Every error class by its code."""
    found: dict[str, type[GenServeError]] = {}
    pending: list[type[GenServeError]] = [GenServeError]
    while pending:
        cls = pending.pop()
        found[cls.code] = cls
        pending.extend(cls.__subclasses__())
    return found


def from_stored(code: str, params: dict[str, JsonValue]) -> GenServeError:
    """The error that a task ended with, as it was stored.

    A code that this version no longer knows (a task stored by an older one) is told as an
    internal error rather than not at all.
    """
    cls = all_errors().get(code)
    if cls is None or set(params) != set(cls.names):
        return GenServeError()
    return cls(**params)
