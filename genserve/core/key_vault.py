"""Opens what the stored keys are encrypted with, and re-encrypts them under a new master key."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from genserve.config import Config
from genserve.store import keys, legacy_keys
from genserve.store.database import Database
from genserve.store.legacy_keys import LegacyKey
from genserve.store.secrets import MasterKeys, RootSecret

BATCH = 100
"""Keys re-encrypted in one transaction: a few milliseconds of the writer's time."""

OnBatch = Callable[[int], None]
"""Told how many ciphertexts have been re-encrypted so far."""


@dataclass(frozen=True, slots=True)
class RotationReport:
    """What a rotation did: ciphertexts in all, and how many of them had to be changed.

    `variable`, when set, still names older keys, which may now be deleted from it.
    """

    total: int
    changed: int
    variable: str | None


@dataclass(frozen=True, slots=True)
class OpenVault:
    """The secrets in use, the configuration they came with, old key files yet to be imported."""

    config: Config
    masters: MasterKeys
    root: RootSecret
    import_from: tuple[Path, ...]
    waiting: Mapping[Path, tuple[LegacyKey, ...]]


async def open_vault(
    db: Database, config: Config, now: float, import_from: tuple[Path, ...]
) -> OpenVault:
    """Prove the master key against everything stored, read old key files, open the root secret.

    Old key files are looked for in the folders of `import_from` and nowhere else.

    Whatever is wrong is found before anything is written. Raises `WrongMasterKey`,
    `MissingMasterKey`, `BadMasterKey`, `LookupSecretLost`, `FileForbidden`, `CannotDecryptFile`,
    `BadKeyFile`.
    """
    tokens = await asyncio.wrap_future(db.read(keys.ciphertexts))
    masters, waiting = await asyncio.to_thread(_open_files, config, tokens, import_from)
    stored = await asyncio.wrap_future(db.read(keys.root_secret))
    if stored is None:
        token = masters.encrypt(RootSecret.new_text())
        add = partial(keys.add_root_secret, ciphertext=token, now=now)
        stored = await asyncio.wrap_future(db.write(add))
    root = RootSecret(masters.decrypt(stored))
    return OpenVault(config, masters, root, import_from, waiting)


def _open_files(
    config: Config, tokens: list[bytes], import_from: tuple[Path, ...]
) -> tuple[MasterKeys, dict[Path, tuple[LegacyKey, ...]]]:
    paths = legacy_keys.find(list(import_from))
    configured = config.keys.encryption_key
    masters = MasterKeys.open(
        None if configured is None else configured.get_secret_value(),
        config.secrets_dir,
        ciphertext_exists=bool(tokens) or any(legacy_keys.is_encrypted(path) for path in paths),
    )
    for token in tokens:
        masters.decrypt(token)
    return masters, {path: tuple(legacy_keys.read(path, masters.decrypt)) for path in paths}


async def rotate(db: Database, masters: MasterKeys, on_batch: OnBatch) -> tuple[int, int]:
    """Re-encrypt everything under the first master key; returns how many in all, how many changed.

    Each batch is one transaction and leaves alone what is current already, so that a rotation that
    was killed goes on where it stopped when it is started again. It ends with a pass that found
    nothing to change: then no ciphertext needs the older keys.
    """
    changed = 0
    while True:
        total, in_this_pass = await _rotate_all(db, masters, changed, on_batch)
        changed += in_this_pass
        if in_this_pass == 0:
            return total, changed


async def _rotate_all(
    db: Database, masters: MasterKeys, before: int, on_batch: OnBatch
) -> tuple[int, int]:
    secrets = partial(keys.rotate_secrets, masters=masters)
    total, changed = await asyncio.wrap_future(db.write(secrets))
    after: str | None = ""
    while after is not None:
        batch = partial(keys.rotate_batch, masters=masters, after=after, limit=BATCH)
        seen, new, after = await asyncio.wrap_future(db.write(batch))
        total, changed = total + seen, changed + new
        on_batch(before + changed)
    return total, changed
