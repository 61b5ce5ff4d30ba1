"""Every API key in memory, by digest; the only place that changes keys.

A change is committed first and then shows in memory, before the call returns: a deleted key never
works again, a created one works at once.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from genserve.config import DEFAULT_API_KEY, Config
from genserve.core import key_issuing, key_records, key_sync, key_vault
from genserve.core.key_issuing import Issued
from genserve.core.key_records import is_declared
from genserve.core.key_vault import OnBatch, OpenVault, RotationReport
from genserve.domain.api_key import is_mistyped, key_id, new_key
from genserve.domain.caller import KeyRecord, Permission
from genserve.errors import AmbiguousKey, ExpiredKey, InvalidKey, KeyIsDeclared, KeyNotFound
from genserve.store import keys, legacy_keys
from genserve.store.database import Clock, Database
from genserve.store.intake import IdempotencyClaim
from genserve.store.secrets import VARIABLE, same_text

LAST_USED_EVERY_S = 60
"""A key's last use is written at most this often."""
LONGEST_ID = 13
"""`first8-last4`; what is longer and was given as an id may be a key, and is not repeated."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """What reading the declarations again changed: ids of keys."""

    added: list[str]
    revoked: list[str]
    unchanged: int


class KeyRing:
    """Answers who holds a key, and issues, deletes and reloads keys."""

    def __init__(
        self, db: Database, clock: Clock, reread: Callable[[], Config], vault: OpenVault
    ) -> None:
        self._db = db
        self._clock = clock
        self._reread = reread
        self._vault = vault
        self._records: dict[str, KeyRecord] = {}
        self._used: dict[str, float] = {}
        self._written: dict[str, float] = {}
        self._lock = asyncio.Lock()
        self._changes: set[asyncio.Task[object]] = set()

    @classmethod
    async def open(
        cls,
        db: Database,
        config: Config,
        clock: Clock,
        reread: Callable[[], Config],
        *,
        import_from: Sequence[Path] = (),
    ) -> "KeyRing":
        """Check the master key, import old key files, bring the declared keys up to date.

        `reread` reads the configuration again. `import_from`: the folders whose old key files are
        taken over and put away; none unless named, since that moves files of the user's. Raises
        `StartupError`; a wrong or missing master key, or a key file that cannot be read, leaves
        everything as it was.
        """
        vault = await key_vault.open_vault(db, config, clock(), tuple(import_from))
        ring = cls(db, clock, reread, vault)
        await ring._alone(partial(ring._sync, ring._vault))
        return ring

    def resolve(self, presented: str) -> KeyRecord:
        """Who holds this key; no I/O, no default key. Raises `InvalidKey`, `ExpiredKey`."""
        if is_mistyped(presented):
            raise InvalidKey
        digest = self._vault.root.digest(presented)
        record = self._records.get(digest)
        if record is None or not hmac.compare_digest(record.digest, digest):
            raise InvalidKey
        now = self._clock()
        if record.expires_at is not None and record.expires_at.timestamp() <= now:
            raise ExpiredKey(expired_at=record.expires_at.isoformat(timespec="seconds"))
        self._used[digest] = now
        return record

    @property
    def default_key_active(self) -> bool:
        """Whether the documented key works: while no key exists, not even an expired one."""
        return not self._records and self._vault.config.keys.default_key

    def is_default_key(self, presented: str) -> bool:
        """Whether this is the documented key, and it is active."""
        return self.default_key_active and same_text(presented, DEFAULT_API_KEY)

    def default_caller(self) -> KeyRecord:
        """The record of the documented key."""
        return KeyRecord(
            id="default",
            alias_id="default",
            digest=self._vault.root.digest(DEFAULT_API_KEY),
            name="default",
            owner="default",
            permissions=frozenset({Permission.ALL}),
            source="default",
            created_at=datetime.fromtimestamp(0, UTC),
        )

    def all(self) -> list[KeyRecord]:
        """Every key, oldest first, with its last use up to now."""
        return [self._with_last_use(record) for record in self._records.values()]

    async def create(
        self,
        name: str,
        permissions: Collection[Permission],
        *,
        owner: str | None = None,
        expires_at: datetime | None = None,
        priority_floor: int = 0,
    ) -> tuple[str, KeyRecord]:
        """Issue a key: its text, to be shown once, and its record.

        Without `owner` it gets an owner of its own. Raises `ValidationFailed`, `StoreUnavailable`.
        """
        issued = await self.issue(
            name,
            permissions,
            owner=owner,
            expires_at=expires_at,
            priority_floor=priority_floor,
        )
        return issued.key, issued.record

    async def issue(
        self,
        name: str,
        permissions: Collection[Permission],
        *,
        owner: str | None = None,
        expires_at: datetime | None = None,
        priority_floor: int = 0,
        claim: IdempotencyClaim | None = None,
    ) -> Issued:
        """As `create`; the same claim again gives the key that it gave before.

        Raises `IdempotencyMismatch`, and `IssuedKeyDeleted` where that key is no more.
        """
        key = new_key()
        record = key_records.issued_record(
            key,
            self._vault.root.digest(key),
            name=name,
            permissions=permissions,
            owner=owner,
            expires_at=expires_at,
            priority_floor=priority_floor,
            now=datetime.fromtimestamp(self._clock(), UTC),
        )
        new = Issued(key, record, replayed=False)
        return await self._alone(partial(self._add, new, claim))

    async def delete_key(self, key: str) -> list[KeyRecord]:
        """Delete by the full key. Raises `KeyNotFound`, `KeyIsDeclared`."""
        digest = self._vault.root.digest(key)
        return await self._delete(key_id(key, digest), lambda record: record.digest == digest)

    async def delete_id(self, asked: str) -> list[KeyRecord]:
        """Delete by either id. Raises `KeyNotFound`, `KeyIsDeclared`, `AmbiguousKey`."""
        digest = self._vault.root.digest(asked)
        secret = len(asked) > LONGEST_ID or digest in self._records
        shown = key_id(asked, digest) if secret else asked
        return await self._delete(shown, lambda record: asked in {record.id, record.alias_id})

    async def delete_name(self, name: str) -> list[KeyRecord]:
        """Delete the one key of this name. Raises as `delete_id`; several are never deleted."""
        return await self._delete(name, lambda record: record.name == name)

    async def reload(self) -> ReloadReport:
        """Read the declarations and old key files again: add what is new, revoke what is gone.

        Raises `StartupError` as `open` does; then nothing has changed.
        """
        return await self._alone(self._reload)

    async def rotate_master(
        self, new_key: str | None = None, *, on_batch: OnBatch = lambda changed: None
    ) -> RotationReport:
        """Re-encrypt every key under a new master key; can be killed and started again.

        With a configured master key the new one stands first in its variable already, and
        `new_key` must be absent. Raises `MasterKeyIsConfigured`, and `StartupError` as `open`.
        """
        return await self._alone(partial(self._rotate, new_key, on_batch))

    async def flush_last_used(self) -> None:
        """Write down when keys were last used, each key at most once a minute."""
        due = {
            digest: at
            for digest, at in self._used.items()
            if at - self._written.get(digest, 0) >= LAST_USED_EVERY_S
        }
        if not due:
            return
        mark = partial(keys.mark_used, used=due)
        await asyncio.wrap_future(self._db.write(mark, durable=False))
        self._written.update(due)

    def sign_image(self, file_name: str, expires_at: int) -> str:
        """The signature of a link to a picture until `expires_at`, in UTC seconds."""
        return self._vault.root.sign("image link", f"{expires_at}\n{file_name}")

    def image_signature_ok(self, file_name: str, expires_at: int, signature: str) -> bool:
        """Whether the link was made here and has not expired."""
        is_ours = same_text(signature, self.sign_image(file_name, expires_at))
        return is_ours and self._clock() < expires_at

    async def _alone(self, change: Callable[[], Awaitable[T]]) -> T:
        """Make one change at a time, and to its end even when the request for it is gone.

        Otherwise a client that hangs up between commit and memory would keep a deleted key alive.
        """

        async def in_turn() -> T:
            async with self._lock:
                return await change()

        task = asyncio.create_task(in_turn(), name="keyring change")
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _add(self, new: Issued, claim: IdempotencyClaim | None) -> Issued:
        issued = await key_issuing.issue(
            self._db, self._vault, new, claim, known=self._records, now=self._clock()
        )
        if not issued.replayed:
            self._records = {**self._records, issued.record.digest: issued.record}
        return issued

    async def _delete(self, shown: str, matches: Callable[[KeyRecord], bool]) -> list[KeyRecord]:
        async def delete() -> list[KeyRecord]:
            found = [record for record in self._records.values() if matches(record)]
            if not found:
                raise KeyNotFound(key=shown)
            if len(found) > 1:
                raise AmbiguousKey(key=shown, matches=len(found))
            record = found[0]
            if is_declared(record):
                raise KeyIsDeclared(key=record.id, variable=record.source)
            remove = partial(keys.delete_keys, digests=[record.digest])
            await asyncio.wrap_future(self._db.write(remove))
            self._hold([r for r in self._records.values() if r.digest != record.digest])
            return [self._with_last_use(record)]

        return await self._alone(delete)

    async def _reload(self) -> ReloadReport:
        before = self._records
        fresh = await asyncio.to_thread(self._reread)
        config = self._vault.config.model_copy(update={"keys": fresh.keys})
        folders = self._vault.import_from
        await self._sync(await key_vault.open_vault(self._db, config, self._clock(), folders))
        after = self._records
        return ReloadReport(
            added=[record.id for digest, record in after.items() if digest not in before],
            revoked=[record.id for digest, record in before.items() if digest not in after],
            unchanged=len(after.keys() & before.keys()),
        )

    async def _sync(self, vault: OpenVault) -> None:
        now = datetime.fromtimestamp(self._clock(), UTC)
        digest_of = vault.root.digest
        declared = key_records.declared_keys(vault.config.keys.declared, digest_of, now)
        legacy = [key for found in vault.waiting.values() for key in found]
        imported = key_records.imported_keys(legacy, digest_of, now)
        sync = partial(
            key_sync.sync, declared=declared, imported=imported, encrypt=vault.masters.encrypt
        )
        records = await asyncio.wrap_future(self._db.write(sync))
        self._vault = replace(vault, waiting={})
        self._hold(records)
        for path in vault.waiting:
            await asyncio.to_thread(legacy_keys.put_away, path)

    async def _rotate(self, new_key: str | None, on_batch: OnBatch) -> RotationReport:
        await self._reload()
        masters = await asyncio.to_thread(self._vault.masters.begin_rotation, new_key)
        self._vault = replace(self._vault, masters=masters)
        total, changed = await key_vault.rotate(self._db, masters, on_batch)
        masters = await asyncio.to_thread(masters.finish_rotation)
        self._vault = replace(self._vault, masters=masters)
        return RotationReport(total, changed, VARIABLE if masters.is_rotating else None)

    def _hold(self, records: Collection[KeyRecord]) -> None:
        self._records = {record.digest: record for record in records}
        self._used = {d: at for d, at in self._used.items() if d in self._records}
        loaded = {
            record.digest: record.last_used_at.timestamp()
            for record in records
            if record.last_used_at is not None
        }
        flushed = {d: at for d, at in self._written.items() if d in self._records}
        self._written = {**loaded, **flushed}

    def _with_last_use(self, record: KeyRecord) -> KeyRecord:
        used = self._used.get(record.digest)
        if used is None:
            return record
        return record.model_copy(update={"last_used_at": datetime.fromtimestamp(used, UTC)})
