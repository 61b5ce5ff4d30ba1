"""Who calls: what authentication yields. The key itself never gets this far."""

from datetime import datetime
from enum import StrEnum

from genserve.domain.request import Value


class Permission(StrEnum):
    """What a key allows. `admin` implies all but is also told apart as the operator's."""

    GENERATION = "generation"
    READONLY = "readonly"
    ADMIN = "admin"
    ALL = "all"


class KeyRecord(Value):
    """An API key as the server knows it: everything but the key.

    `source` is "issued" (made by us), "imported" (from an old key file), "default" (the documented
    key), or the name of the variable or setting that declares it. `digest` is hex of HMAC-SHA256.
    """

    id: str
    """`first8-last4` for keys of 24 characters or more, else `k_` and 8 hex of the digest."""
    alias_id: str
    """`k_` and 8 hex of the digest: always unique in practice, accepted wherever `id` is."""
    digest: str
    name: str
    owner: str
    permissions: frozenset[Permission]
    source: str
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    priority_floor: int = 0

    @property
    def is_admin(self) -> bool:
        """Whether the key sees and manages everything."""
        return bool(self.permissions & {Permission.ADMIN, Permission.ALL})

    def allows(self, needed: Permission) -> bool:
        """Whether the key may do what needs `needed`."""
        return needed in self.permissions or self.is_admin


Caller = KeyRecord
"""What a handler is given; limits and owner come from the key."""
