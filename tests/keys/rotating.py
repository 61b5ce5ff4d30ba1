"""A program that rotates the master key and stands still when it has come to a given place.

    python -m tests.keys.rotating URL DATA_DIR CONFIGURED STOP_AT

CONFIGURED is the encryption key's setting, `-` for none. It prints each place it comes to, the
number of ciphertexts that are done, and waits at STOP_AT for a word on standard input that a test
never sends.
"""

import asyncio
import sys
import time
from pathlib import Path

from genserve.config import Config, Keys
from genserve.core.keyring import KeyRing
from genserve.store.database import Database


async def main(url: str, data_dir: Path, configured: str, stop_at: int) -> None:
    """Open the ring and rotate."""
    keys = Keys.model_validate({"encryption_key": None if configured == "-" else configured})
    config = Config(data_dir=data_dir, keys=keys)
    database = Database.open(url)
    ring = await KeyRing.open(database, config, time.time, lambda: config)

    def stand_still(done: int) -> None:
        print(done, flush=True)
        if done >= stop_at:
            sys.stdin.read(1)

    await ring.rotate_master(on_batch=stand_still)
    database.close()
    print("finished", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
