"""API keys for benchmarks, made directly in a data folder that no server holds."""

import asyncio
import time
from pathlib import Path

from genserve.config import Config
from genserve.core.keyring import KeyRing
from genserve.domain.caller import Permission
from genserve.store.database import Database
from genserve.store.datafolder import DataFolder


def make_keys(data_dir: Path, count: int) -> list[str]:
    """So many new keys with the permission `generation`, each with an owner of its own."""
    config = Config(data_dir=data_dir)
    folder = DataFolder.open(data_dir)
    try:
        db = Database.open(config.database_url)
        try:
            return asyncio.run(_make(db, config, count))
        finally:
            db.close()
    finally:
        folder.close()


async def _make(db: Database, config: Config, count: int) -> list[str]:
    ring = await KeyRing.open(db, config, time.time, lambda: config)
    made = []
    for number in range(count):
        key, _ = await ring.create(f"bench {number}", [Permission.GENERATION])
        made.append(key)
    return made
