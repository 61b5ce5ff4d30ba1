"""From an exception to an answer, in the shape of the dialect that was spoken.

A router's route class (`dialect_route`) catches whatever its handlers raise, settles the language
and asks the dialect's `render_error` for the answer. What happens outside every route (no such
path, wrong method) is answered by `app` in the native shape. An exception's own text never leaves
the process: callers get our words, the log gets the details under the request's id.
"""

from collections.abc import Callable, Coroutine
from math import ceil
from typing import Any, Protocol

import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from genserve.api.auth import Visit, visit_of
from genserve.api.gate import CLIENT_GONE
from genserve.api.language import preferred_language
from genserve.api.problems import problems_of
from genserve.errors import (
    GenServeError,
    IdempotencyInFlight,
    InvalidKey,
    InvalidRequest,
    Language,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
    ValidationFailed,
)

log = structlog.get_logger()

MAX_ECHOED_CHARS = 200


class RenderError(Protocol):
    """A dialect's way to tell an error: a pure function."""

    def __call__(
        self, error: GenServeError, language: Language, task_id: str | None = None
    ) -> Response: ...


def dialect_route(render_error: RenderError, default_language: Language) -> type[APIRoute]:
    """The route class of a dialect whose errors look as `render_error` makes them."""

    class DialectRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def answer(request: Request) -> Response:
                visit = visit_of(request)
                visit.language = preferred_language(
                    request.headers.get("accept-language"), default_language
                )
                try:
                    return await handler(request)
                except ClientDisconnect:
                    return Response(status_code=CLIENT_GONE)
                except Exception as error:  # noqa: BLE001 - the edge of a request
                    return answer_to(error, request, visit, render_error)

            return answer

    return DialectRoute


def answer_to(
    error: Exception, request: Request, visit: Visit, render_error: RenderError
) -> Response:
    """The answer to whatever a request ended with."""
    told = as_genserve_error(error, request, visit.language)
    if not isinstance(error, GenServeError | HTTPException | RequestValidationError):
        log.error("request_failed", exc_info=error)
    elif told.status >= 500:
        log.warning("request_refused", code=told.code)
    response = render_error(told, visit.language, visit.task_id)
    response.headers.update(error_headers(told))
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


def as_genserve_error(error: Exception, request: Request, language: Language) -> GenServeError:
    """Any exception as one of ours."""
    if isinstance(error, GenServeError):
        return error
    if isinstance(error, RequestValidationError):
        return ValidationFailed(problems=problems_of(error.errors(), language))
    if isinstance(error, HTTPException):
        path = request.scope["path"][:MAX_ECHOED_CHARS]
        if error.status_code == 404:
            return NotFound(path=path)
        if error.status_code == 405:
            return MethodNotAllowed(method=request.method, path=path)
        if error.status_code < 500:
            return InvalidRequest(problem=error.detail)
    return GenServeError()


def error_headers(error: GenServeError) -> dict[str, str]:
    """What an error says in headers, in every dialect."""
    headers = {}
    if isinstance(error, Unauthorized):
        invalid = ', error="invalid_token"' if isinstance(error, InvalidKey) else ""
        headers["WWW-Authenticate"] = f'Bearer realm="GenServe"{invalid}'
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, ceil(error.retry_after_s)))
    elif isinstance(error, IdempotencyInFlight):
        headers["Retry-After"] = "1"
    if error.status in (408, 413):
        # The rest of the body was not read, so nothing can follow on this connection.
        headers["Connection"] = "close"
    return headers
