"""Who may do what: keys are told from the headers alone, before any body is read.

`gate` asks `Authenticator.identify` once per request and keeps the answer in the request's `Visit`.
A handler's signature then says what it needs, as `caller: GenerationCaller`, and a test refuses
a route that says nothing. Nothing here looks at a request's path.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated

import structlog
from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from starlette.datastructures import Headers

from genserve.api.default_key import default_key_works
from genserve.core.keyring import KeyRing
from genserve.core.limits import Limits, LimitState
from genserve.core.runtime import Runtime
from genserve.domain.caller import KeyRecord, Permission
from genserve.errors import (
    ExpiredKey,
    Forbidden,
    GenServeError,
    InvalidKey,
    Language,
    LimitReached,
    TooManyFailures,
    Unauthorized,
)

KEY_HEADERS = ("x-api-key", "api-key", "x-key")
MAX_KEY_CHARS = 512
WINDOW_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
MAX_ACQUAINTED = 10_000


@dataclass(frozen=True, slots=True)
class Identity:
    """What the headers prove. `refusal` is why a route that needs a key must not be served."""

    caller: KeyRecord | None = None
    refusal: GenServeError | None = None
    limit: LimitState | None = None


@dataclass(slots=True)
class Visit:
    """What is known about one request beside what it asks for.

    `language` is settled by the route's dialect.
    """

    request_id: str
    address: str
    origin: str | None
    identity: Identity
    authenticator: "Authenticator"
    language: Language = "en"
    task_id: str | None = None

    def concerns(self, task_id: str) -> None:
        """From now on, errors and log lines of this request name the task."""
        self.task_id = task_id
        structlog.contextvars.bind_contextvars(task_id=task_id)


class Authenticator:
    """Tells callers by their keys, counts their requests, and slows down guessing."""

    def __init__(self, keys: KeyRing, limits: Limits, *, rate: str, bound_to: str) -> None:
        self._keys = keys
        self._limits = limits
        count, _, unit = rate.partition("/")
        self._used_up = LimitState(int(count), WINDOW_S[unit], 0, 0)
        self._bound_to = bound_to
        self._acquainted: OrderedDict[tuple[str, str], None] = OrderedDict()

    def identify(
        self, headers: Headers, *, peer: str | None, scheme: str, address: str
    ) -> Identity:
        """Whose key the headers carry; counts the request against that key's limit.

        `peer` is the TCP peer's address, `address` the client's as far as proxies are believed.
        """
        presented = presented_key(headers)
        if presented is None:
            return Identity(refusal=Unauthorized())
        local = default_key_works(
            active=self._keys.is_default_key(presented),
            bound_to=self._bound_to,
            peer=peer,
            scheme=scheme,
            headers=headers,
        )
        try:
            caller = self._keys.default_caller() if local else self._resolve(presented, address)
        except GenServeError as refusal:
            return Identity(refusal=refusal)
        try:
            return Identity(caller=caller, limit=self._limits.hit(caller.digest))
        except LimitReached as refusal:
            limit = replace(self._used_up, reset_s=ceil(refusal.retry_after_s or 1))
            return Identity(caller=caller, refusal=refusal, limit=limit)

    def missing_key(self, address: str) -> GenServeError:
        """Count a request that needed a key and had none; the error that it is answered with."""
        try:
            self._limits.check_auth_allowed(address)
        except TooManyFailures as throttled:
            return throttled
        self._limits.auth_failure(address)
        return Unauthorized()

    def _resolve(self, presented: str, address: str) -> KeyRecord:
        """The key's record. From an address that guesses, only keys that were good before work.

        Whoever shares an address with a guesser is thus not locked out, and the guesser cannot
        tell a right guess from a wrong one.
        """
        throttled = self._throttled(address)
        try:
            caller = self._keys.resolve(presented)
        except (InvalidKey, ExpiredKey):
            if throttled is None:
                self._limits.auth_failure(address)
                raise
            raise throttled from None
        acquaintance = (address, caller.digest)
        if throttled is not None and acquaintance not in self._acquainted:
            raise throttled
        self._acquainted[acquaintance] = None
        self._acquainted.move_to_end(acquaintance)
        if len(self._acquainted) > MAX_ACQUAINTED:
            self._acquainted.popitem(last=False)
        return caller

    def _throttled(self, address: str) -> TooManyFailures | None:
        try:
            self._limits.check_auth_allowed(address)
        except TooManyFailures as error:
            return error
        return None


def presented_key(headers: Headers) -> str | None:
    """The key in the headers: a Bearer token first, then X-API-Key, api-key, x-key.

    Other Authorization schemes are not ours and are passed over. A key that no key can look like
    is told as the empty string, which no key is.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.casefold() == "bearer" else ""
    for key in (bearer, *(headers.get(name, "").strip() for name in KEY_HEADERS)):
        if key:
            return _as_typed(key)
    return None


def _as_typed(key: str) -> str:
    """The key's text: headers are read as Latin-1, but whoever types Chinese sends UTF-8."""
    try:
        return key.encode("latin-1").decode() if len(key) <= MAX_KEY_CHARS else ""
    except UnicodeDecodeError:
        return ""


def visit_of(request: Request) -> Visit:
    """What `gate` found out about the request."""
    visit: Visit = request.scope["state"]["visit"]
    return visit


def runtime_of(request: Request) -> Runtime:
    """The runtime that the application serves."""
    runtime: Runtime = request.app.state.runtime
    return runtime


class Needs:
    """The dependency that admits callers who have any one of some permissions."""

    def __init__(self, *permissions: Permission) -> None:
        self.permissions = permissions

    async def __call__(self, request: Request) -> KeyRecord:
        visit = visit_of(request)
        caller, refusal = visit.identity.caller, visit.identity.refusal
        if caller is None and type(refusal) is Unauthorized:
            raise visit.authenticator.missing_key(visit.address)
        if refusal is not None:
            raise refusal
        if caller is None or not any(caller.allows(one) for one in self.permissions):
            raise Forbidden(
                needed=" / ".join(self.permissions),
                granted=[*sorted(caller.permissions)] if caller else [],
            )
        return caller


class MayHaveKey:
    """The dependency of routes that tell more to a caller with a key; a wrong key is refused."""

    async def __call__(self, request: Request) -> KeyRecord | None:
        identity = visit_of(request).identity
        if identity.refusal is not None and type(identity.refusal) is not Unauthorized:
            raise identity.refusal
        return identity.caller


class Open:
    """The dependency that says: whoever reaches the server may call this."""

    async def __call__(self) -> None:
        return None


def access_of(dependant: Dependant) -> Needs | MayHaveKey | Open | None:
    """What a route's handler says about who may call it; None when it says nothing."""
    calls = [dependency.call for dependency in dependant.dependencies]
    said = [call for call in calls if isinstance(call, Needs | MayHaveKey | Open)]
    return said[0] if said else None


OptionalCaller = Annotated[KeyRecord | None, Depends(MayHaveKey())]
Anyone = Annotated[None, Depends(Open())]
GenerationCaller = Annotated[KeyRecord, Depends(Needs(Permission.GENERATION))]
ReadonlyCaller = Annotated[KeyRecord, Depends(Needs(Permission.READONLY))]
TaskCaller = Annotated[KeyRecord, Depends(Needs(Permission.GENERATION, Permission.READONLY))]
AdminCaller = Annotated[KeyRecord, Depends(Needs(Permission.ADMIN))]
