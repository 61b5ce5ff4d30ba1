"""A request that is refused for another reason than those of `invalid`: nothing was queued."""

from typing import ClassVar

from genserve.errors.base import GenServeError

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


class SideTooLong(ValidationFailed):
    """A side of more pixels than the network knows places for, however few pixels there are."""

    code = "side_too_long"
    names: ClassVar[tuple[str, ...]] = ("model", "width", "height", "max_side")


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
