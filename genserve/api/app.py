"""The application: every router, the gate around them, and answers to what no router knows."""

from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from genserve import __version__
from genserve.api import docs, health
from genserve.api.auth import visit_of
from genserve.api.dialects import native
from genserve.api.errors import answer_to
from genserve.api.gate import Gate
from genserve.api.language import preferred_language
from genserve.core.runtime import Runtime
from genserve.errors import GenServeError


class Application(FastAPI):
    """FastAPI with the document that `docs` writes."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = docs.describe(self)
        return self.openapi_schema


def create_app(runtime: Runtime) -> FastAPI:
    """The ASGI application over a runtime that the caller has started and will stop."""
    app = Application(
        title="GenServe",
        version=__version__,
        openapi_url=None,
        redirect_slashes=False,
        middleware=[Middleware(Gate, runtime=runtime)],
        exception_handlers={HTTPException: _no_such_route, Exception: _outside_every_route},
    )
    app.state.runtime = runtime
    for router in (native.router, health.router, docs.router):
        # Not `include_router`, which matches every path once more for each level of inclusion.
        app.router.routes.extend(router.routes)
    return app


async def _no_such_route(request: Request, error: Exception) -> Response:
    visit = visit_of(request)
    visit.language = preferred_language(request.headers.get("accept-language"), "zh")
    return answer_to(error, request, visit, native.render_error)


async def _outside_every_route(request: Request, error: Exception) -> Response:
    """A fault of the layers around the routes; the server logs it with its traceback."""
    return native.render_error(GenServeError(), "en")
