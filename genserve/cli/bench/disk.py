"""How long the disk takes to make a small write durable: what every durable figure rests on."""

import os
import tempfile
import time
from pathlib import Path

SAMPLES = 200
BLOCK = bytes(4096)


def fsync_ms(folder: Path, samples: int = SAMPLES) -> tuple[float, float]:
    """Median and 99th percentile, in milliseconds, of appending 4 KiB to a file and syncing it."""
    took_ms: list[float] = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(samples):
            file.write(BLOCK)
            began = time.perf_counter()
            os.fsync(file.fileno())
            took_ms.append(1e3 * (time.perf_counter() - began))
    took_ms.sort()
    return took_ms[len(took_ms) // 2], took_ms[int(0.99 * (len(took_ms) - 1))]
