"""A request that is refused: nothing was queued."""

from typing import ClassVar

from genserve.errors.base import GenServeError

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


class UnsupportedControlWeight(InvalidRequest):
    """The model takes control pictures as a part of its input: all of it, in every step."""

    code = "unsupported_control_weight"
    names: ClassVar[tuple[str, ...]] = ("model",)


class ControlNotInstalled(InvalidRequest):
    """The model has a ControlNet for it, but that cannot be used; `reason` says why."""

    code = "control_not_installed"
    names: ClassVar[tuple[str, ...]] = ("model", "control", "reason")


class UnknownScheduler(InvalidRequest):
    code = "unknown_scheduler"
    names: ClassVar[tuple[str, ...]] = ("model", "scheduler", "supported")


class UnsupportedSigmas(InvalidRequest):
    code = "unsupported_sigmas"
    names: ClassVar[tuple[str, ...]] = ("model", "sigmas", "supported")


class SchedulerWithoutSigmas(InvalidRequest):
    """The scheduler's noise levels cannot be spaced; `able` are the model's that can."""

    code = "scheduler_without_sigmas"
    names: ClassVar[tuple[str, ...]] = ("scheduler", "sigmas", "able")


class PromptTooComplex(InvalidRequest):
    """`passes` is how often a text encoder would have to run."""

    code = "prompt_too_complex"
    names: ClassVar[tuple[str, ...]] = ("passes", "limit")


class UnsupportedClipSkip(InvalidRequest):
    code = "unsupported_clip_skip"
    names: ClassVar[tuple[str, ...]] = ("model",)


class UnknownVae(InvalidRequest):
    code = "unknown_vae"
    names: ClassVar[tuple[str, ...]] = ("vae", "available")


class UnsupportedVae(InvalidRequest):
    code = "unsupported_vae"
    names: ClassVar[tuple[str, ...]] = ("model",)


class VaeDoesNotFit(InvalidRequest):
    """`reason` says what is wrong: another number of channels, or weights that are missing."""

    code = "vae_does_not_fit"
    names: ClassVar[tuple[str, ...]] = ("vae", "model", "reason")


class EmbeddingBroken(InvalidRequest):
    """A trained word's file that cannot be used any more; `reason` names the file."""

    code = "embedding_broken"
    names: ClassVar[tuple[str, ...]] = ("name", "reason")


class BadControlRange(InvalidRequest):
    code = "bad_control_range"
    names: ClassVar[tuple[str, ...]] = ("start", "end")


class UnknownLora(InvalidRequest):
    code = "unknown_lora"
    names: ClassVar[tuple[str, ...]] = ("lora", "available")


class UnsupportedLora(InvalidRequest):
    code = "unsupported_lora"
    names: ClassVar[tuple[str, ...]] = ("model",)


class LoraOfAnotherFamily(InvalidRequest):
    """`base` is the family that the LoRA was made for, `takes` what the model takes."""

    code = "lora_of_another_family"
    names: ClassVar[tuple[str, ...]] = ("lora", "base", "model", "takes")


class LoraBroken(InvalidRequest):
    """The LoRA's file is there but cannot be used; `reason` names the file."""

    code = "lora_broken"
    names: ClassVar[tuple[str, ...]] = ("lora", "reason")


class LoraDoesNotFit(InvalidRequest):
    """The LoRA is not for this model; `reason` names the first tensor that does not fit."""

    code = "lora_does_not_fit"
    names: ClassVar[tuple[str, ...]] = ("lora", "model", "reason")


class UnsupportedNegativePrompt(InvalidRequest):
    code = "unsupported_negative_prompt"
    names: ClassVar[tuple[str, ...]] = ("model",)


class PreprocessorMissing(InvalidRequest):
    """A photo was given as control picture, and the model that makes the map is not installed."""

    code = "preprocessor_not_installed"
    names: ClassVar[tuple[str, ...]] = ("control", "model", "folder")


class MissingImage(InvalidRequest):
    code = "missing_image"
    names: ClassVar[tuple[str, ...]] = ("mode", "field")


class MaskSizeMismatch(InvalidRequest):
    """A mask of other width or height, in pixels, than the picture that it is for."""

    code = "mask_size"
    names: ClassVar[tuple[str, ...]] = ("width", "height", "needed_width", "needed_height")


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


class DuplicateLora(ValidationFailed):
    code = "duplicate_lora"
    names: ClassVar[tuple[str, ...]] = ("lora",)


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


class IssuedKeyDeleted(Conflict):
    """The API key that an Idempotency-Key (`key`) has led to was deleted since."""

    code = "issued_key_deleted"
    names: ClassVar[tuple[str, ...]] = ("key",)


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


class WeightsUnreadable(Unavailable):
    """A folder of weights cannot be looked at; what was found before goes on being served."""

    code = "weights_unreadable"
    names: ClassVar[tuple[str, ...]] = ("path", "reason", "retry_after_s")


class ShuttingDown(Unavailable):
    code = "shutting_down"
