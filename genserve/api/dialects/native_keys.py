"""The native API's key management, for admins; bodies as form, urlencoded or JSON."""

import hashlib
from datetime import UTC
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from genserve.api.auth import AdminCaller, runtime_of, visit_of
from genserve.api.body import read_fields
from genserve.api.dialects.native_answers import json_response, time_of
from genserve.api.dialects.native_docs import answers, takes
from genserve.api.dialects.native_docs_info import DeletedKeys, KeyList, NewKey, ReloadedKeys
from genserve.api.dialects.native_models import (
    DeleteKeyBody,
    DeleteKeyByIdBody,
    DeleteKeyByNameBody,
    NewKeyBody,
    from_form,
)
from genserve.api.dialects.native_route import NativeRoute
from genserve.api.preferences import idempotency_key
from genserve.api.problems import checked
from genserve.domain.caller import KeyRecord, Permission
from genserve.errors import Conflict, StartupError
from genserve.store.intake import IdempotencyClaim

router = APIRouter(route_class=NativeRoute, prefix="/auth", tags=["keys"])
M = TypeVar("M", bound=BaseModel)

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded", "application/json")


@router.get("/keys", responses=answers(KeyList, "Every API key, without the key itself"))
async def list_keys(request: Request, _: AdminCaller) -> Response:
    """Every API key."""
    keys = [_summary(record) for record in runtime_of(request).keys.all()]
    return json_response({"success": True, "keys": keys, "total": len(keys)})


@router.post(
    "/generate-key",
    openapi_extra=takes(NewKeyBody, *FORMS),
    responses=answers(NewKey, "The key; it is shown this once"),
)
async def generate_key(request: Request, caller: AdminCaller) -> Response:
    """Issue a key. The same Idempotency-Key again gives the same key."""
    body = await _body(request, NewKeyBody)
    expires_at = body.expires_at
    if expires_at is not None and expires_at.tzinfo is None:
        expires_at = expires_at.replace(tzinfo=UTC)
    issued = await runtime_of(request).keys.issue(
        body.name,
        body.permissions,
        owner=body.owner,
        expires_at=expires_at,
        priority_floor=body.priority_floor,
        claim=_claim(request, caller, body),
    )
    record = issued.record
    content = {
        "success": True,
        "api_key": issued.key,
        "key_id": record.id,
        "name": record.name,
        "permissions": _permissions(record),
        "expires_at": time_of(record.expires_at),
        "owner": record.owner,
    }
    headers = {"Cache-Control": "no-store"}
    if issued.replayed:
        headers["Idempotency-Replayed"] = "true"
    return json_response(content, headers=headers)


def _claim(request: Request, caller: KeyRecord, body: NewKeyBody) -> IdempotencyClaim | None:
    value = idempotency_key(request.headers, visit_of(request).language)
    if value is None:
        return None
    fingerprint = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    return IdempotencyClaim(caller.digest, value, fingerprint)


@router.post(
    "/delete-key",
    openapi_extra=takes(DeleteKeyBody, *FORMS),
    responses=answers(DeletedKeys, "The deleted key"),
)
async def delete_key(request: Request, _: AdminCaller) -> Response:
    """Delete a key by the whole key."""
    body = await _body(request, DeleteKeyBody)
    return _deleted(await runtime_of(request).keys.delete_key(body.api_key))


@router.post(
    "/delete-key-by-id",
    openapi_extra=takes(DeleteKeyByIdBody, *FORMS),
    responses=answers(DeletedKeys, "The deleted key"),
)
async def delete_key_by_id(request: Request, _: AdminCaller) -> Response:
    """Delete a key by either of its ids."""
    body = await _body(request, DeleteKeyByIdBody)
    return _deleted(await runtime_of(request).keys.delete_id(body.key_id))


@router.post(
    "/delete-key-by-name",
    openapi_extra=takes(DeleteKeyByNameBody, *FORMS),
    responses=answers(DeletedKeys, "The deleted key"),
)
async def delete_key_by_name(request: Request, _: AdminCaller) -> Response:
    """Delete the one key of a name; several of one name are left alone."""
    body = await _body(request, DeleteKeyByNameBody)
    return _deleted(await runtime_of(request).keys.delete_name(body.name))


@router.post("/reload-keys", responses=answers(ReloadedKeys, "What changed"))
async def reload_keys(request: Request, _: AdminCaller) -> Response:
    """Read .env, configuration and key file again: add what is new, revoke what is gone."""
    try:
        report = await runtime_of(request).keys.reload()
    except StartupError as error:
        raise Conflict(problem=error.detail(visit_of(request).language)) from None
    content = {
        "success": True,
        "added": report.added,
        "revoked": report.revoked,
        "unchanged": report.unchanged,
    }
    return json_response(content)


async def _body(request: Request, model: type[M]) -> M:
    fields = from_form(await read_fields(request, runtime_of(request).config.api))
    if isinstance(fields.get("permissions"), str):
        words = str(fields["permissions"]).split(",")
        fields["permissions"] = [word.strip() for word in words if word.strip()]
    return checked(model, fields, visit_of(request).language)


def _deleted(records: list[KeyRecord]) -> Response:
    return json_response({"success": True, "deleted": [_summary(record) for record in records]})


def _summary(record: KeyRecord) -> dict[str, Any]:
    return {
        "key_id": record.id,
        "alias_id": record.alias_id,
        "name": record.name,
        "owner": record.owner,
        "permissions": _permissions(record),
        "source": record.source,
        "priority_floor": record.priority_floor,
        "created_at": time_of(record.created_at),
        "expires_at": time_of(record.expires_at),
        "last_used_at": time_of(record.last_used_at),
    }


def _permissions(record: KeyRecord) -> list[Permission]:
    return [one for one in Permission if one in record.permissions]
