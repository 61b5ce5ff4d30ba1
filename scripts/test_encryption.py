#!/usr/bin/env python3
"""Check the encryption of stored API keys: the key's form, what is stored, who can read it.

    python scripts/test_encryption.py

Prints one line for each check, `ok` or what to do, and ends with 0 or 1. Changes nothing.
"""

import stat
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from genserve import config_sources
from genserve.config import Config
from genserve.errors import GenServeError, WrongMasterKey
from genserve.store import keys, legacy_keys
from genserve.store.database import Database
from genserve.store.secrets import VARIABLE, KeyFile, MasterKeys

SAMPLE = "gs_a-key-that-nobody-holds"
Line = tuple[bool, str]


def checks(config: Config) -> Iterator[Line]:
    """Every check in order: whether it passed, and what to tell."""
    tokens = stored_tokens(config)
    waiting = legacy_keys.find([Path.cwd(), config.data_dir])
    configured = config.keys.encryption_key
    file = KeyFile(config.secrets_dir)
    if configured is None and not file.read() and not tokens and not waiting:
        yield True, "no encryption key is set and none is needed yet: the first start makes one"
        return
    masters = MasterKeys.open(
        None if configured is None else configured.get_secret_value(),
        config.secrets_dir,
        ciphertext_exists=True,
    )
    where = VARIABLE if masters.is_configured else str(file.path)
    yield True, f"the encryption key in {where} has the right form"
    yield round_trip(masters), "what it encrypts can be decrypted again"
    yield stored(masters, tokens)
    yield from rotation(masters, tokens, where)
    yield from old_files(masters, waiting)
    yield from modes(config, masters)


def stored_tokens(config: Config) -> list[bytes]:
    """Everything encrypted in the database; none when there is no database yet."""
    if config.store.url is None and not (config.data_dir / "genserve.db").exists():
        return []
    db = Database.open(config.database_url, migrate=False)
    try:
        return db.read(keys.ciphertexts).result()
    finally:
        db.close()


def round_trip(masters: MasterKeys) -> bool:
    """Whether a text comes back and does not show in between."""
    token = masters.encrypt(SAMPLE)
    return masters.decrypt(token) == SAMPLE and SAMPLE.encode() not in token


def stored(masters: MasterKeys, tokens: list[bytes]) -> Line:
    """Whether it decrypts everything in the database."""
    wrong = sum(not decrypts(masters, token) for token in tokens)
    if wrong:
        return False, (
            f"{wrong} of {len(tokens)} stored secrets cannot be decrypted: set {VARIABLE} to the "
            "key that they were encrypted with (several keys are separated by commas)"
        )
    return True, f"it decrypts all {len(tokens)} stored secrets"


def decrypts(masters: MasterKeys, token: bytes) -> bool:
    """Whether one of the keys fits."""
    try:
        masters.decrypt(token)
    except WrongMasterKey:
        return False
    return True


def rotation(masters: MasterKeys, tokens: list[bytes], where: str) -> Iterator[Line]:
    """Whether older keys beside the first are still needed."""
    if not masters.is_rotating:
        return
    if all(masters.is_current(token) for token in tokens):
        yield True, f"the older keys are no longer needed; delete them from {where}"
    else:
        yield False, "older keys are still in use: run `genserve keys rotate-master`"


def old_files(masters: MasterKeys, waiting: list[Path]) -> Iterator[Line]:
    """Whether key files of an earlier version can be imported."""
    for path in waiting:
        found = legacy_keys.read(path, masters.decrypt)
        yield True, f"{path} is readable; the next start imports its {len(found)} keys"


def modes(config: Config, masters: MasterKeys) -> Iterator[Line]:
    """Whether nobody but the server's user can read the secrets."""
    places = [config.secrets_dir, KeyFile(config.secrets_dir).path]
    if masters.is_configured:
        places.append(Path(".env"))
    for place in places:
        if not place.exists():
            continue
        mode = stat.S_IMODE(place.stat().st_mode)
        right = 0o700 if place.is_dir() else 0o600
        if mode & 0o077:
            yield False, f"others can get at {place} (mode {mode:o}): run chmod {right:o} {place}"
        else:
            yield True, f"only the server's user can get at {place}"


def main() -> int:
    """Print every check; returns the exit code."""
    failed = False
    try:
        for passed, text in checks(config_sources.load()):
            failed |= not passed
            print(f"{'ok  ' if passed else 'FAIL'}  {text}")
    except GenServeError as error:
        failed = True
        print(f"FAIL  {error.detail('en')}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
