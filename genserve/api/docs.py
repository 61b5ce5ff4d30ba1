"""The API's description: /openapi.json, and /docs as one page that loads nothing from elsewhere."""

from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import RouteContext, iter_route_contexts
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from genserve import __version__
from genserve.api.auth import Anyone, MayHaveKey, Needs, access_of
from genserve.api.dialects.native_answers import json_response
from genserve.api.dialects.native_docs import AuthError, Error, UploadForm
from genserve.api.dialects.native_models import (
    DeleteKeyBody,
    DeleteKeyByIdBody,
    DeleteKeyByNameBody,
    GenerateBody,
    NewKeyBody,
)
from genserve.api.dialects.native_route import NativeRoute
from genserve.api.dialects.native_tool_models import (
    PreprocessBody,
    PreprocessForm,
    UpscaleBody,
    UpscaleForm,
)

router = APIRouter(route_class=NativeRoute, include_in_schema=False)

REF = "#/components/schemas/"
MODELS: tuple[type[BaseModel], ...] = (
    GenerateBody,
    UploadForm,
    UpscaleBody,
    UpscaleForm,
    PreprocessBody,
    PreprocessForm,
    NewKeyBody,
    DeleteKeyBody,
    DeleteKeyByIdBody,
    DeleteKeyByNameBody,
    AuthError,
    Error,
)
"""What FastAPI does not see, because routes read bodies and build answers themselves."""
SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"x-api-key": []}]
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


@router.get("/openapi.json")
async def openapi_json(request: Request, _: Anyone) -> Response:
    """The description for programs."""
    return json_response(request.app.openapi())


@router.get("/docs")
async def docs(request: Request, _: Anyone) -> Response:
    """The description for people."""
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return Response(_page(request.app.openapi()), media_type="text/html", headers=headers)


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`, with what FastAPI cannot know: bodies, keys, errors."""
    schema = get_openapi(
        title="GenServe",
        version=__version__,
        description="Image generation with a durable queue.",
        routes=app.routes,
    )
    for route, operation in _operations(app, schema):
        _say_who(route, operation)
    _, definitions = models_json_schema(
        [(model, "validation") for model in MODELS], ref_template=REF + "{model}"
    )
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {}).update(definitions["$defs"])
    components["securitySchemes"] = SCHEMES
    return schema


def _operations(
    app: FastAPI, schema: dict[str, Any]
) -> Iterator[tuple[RouteContext, dict[str, Any]]]:
    for route in iter_route_contexts(app.routes):
        for method in route.methods or ():
            operation = schema["paths"].get(route.path_format, {}).get(method.lower())
            if operation is not None:
                yield route, operation


def _say_who(route: RouteContext, operation: dict[str, Any]) -> None:
    access = access_of(route.dependant)
    responses = operation["responses"]
    responses.pop("422", None)
    responses["default"] = _error(Error, "Any other error")
    if isinstance(access, Needs):
        operation["security"] = SECURITY
        operation["x-permissions"] = list(access.permissions)
        responses["401"] = _error(AuthError, "The key is missing or wrong")
        responses["403"] = _error(AuthError, "The key lacks the permission")
    elif isinstance(access, MayHaveKey):
        operation["security"] = [{}, *SECURITY]
        responses["401"] = _error(AuthError, "The key is wrong")
    else:
        operation["security"] = []


def _error(model: type[AuthError | Error], description: str) -> dict[str, Any]:
    schema = {"$ref": REF + model.__name__}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code{background:#8882;padding:.1em .3em}table{border-collapse:collapse;width:100%}"
    "td,th{border:1px solid #8886;padding:.3rem .6rem;text-align:left;vertical-align:top}"
    ":root{color-scheme:light dark}"
)


def _page(schema: dict[str, Any]) -> str:
    parts = [
        "<!doctype html><meta charset=utf-8><title>GenServe</title>",
        f"<style>{STYLE}</style><h1>GenServe {escape(schema['info']['version'])}</h1>",
        "<p>Send your key as <code>Authorization: Bearer KEY</code> or <code>X-API-Key: KEY</code>."
        " For programs: <a href=openapi.json>openapi.json</a>.</p>",
    ]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(method, path, operation, schema["components"]["schemas"]))
    return "".join(parts)


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    permissions = " or ".join(operation.get("x-permissions", ())) or "no key needed"
    parts = [
        f"<h2><code>{method.upper()} {escape(path)}</code></h2>",
        f"<p>{escape(operation.get('description', ''))} <em>({escape(permissions)})</em></p>",
    ]
    rows = [
        (parameter["name"], parameter["schema"]) for parameter in operation.get("parameters", ())
    ]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body: <code>{escape(media_type)}</code></p>")
        for choice in content["schema"].get("oneOf", [content["schema"]]):
            model = schemas[choice["$ref"].removeprefix(REF)]
            parts.append(f"<p>{escape(model.get('description', ''))}</p>")
            parts += _table([*model["properties"].items()])
    return "".join([*parts, *_table(rows)])


def _table(rows: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Fields or parameters with what is known of them; nothing for none."""
    if not rows:
        return []
    head = "<table><tr><th>Field<th>Type<th>Default<th>Meaning"
    return [head, *(_row(name, field) for name, field in rows), "</table>"]


def _row(name: str, field: dict[str, Any]) -> str:
    default = field.get("default")
    cells = (name, _type(field), "" if default is None else str(default))
    texts = "".join(f"<td><code>{escape(cell)}</code>" if cell else "<td>" for cell in cells)
    return f"<tr>{texts}<td>{escape(field.get('description', ''))}"


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " | ".join(_type(option) for option in field["anyOf"])
    if "enum" in field:
        return " | ".join(str(value) for value in field["enum"])
    kind = str(field.get("type", field.get("$ref", "").removeprefix(REF)))
    if kind == "array":
        return f"list of {_type(field.get('items', {}))}"
    low, high = field.get("minimum"), field.get("maximum")
    return kind if low is None else f"{kind} {low}…{high}"
