"""Writes safetensors files for tests, right ones and wrong ones."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any


def safetensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: dict[str, str] | None = None
) -> Path:
    """A file of zeros in 16 bits."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    reached = 0
    for name, shape in shapes.items():
        size = 2 * prod(shape)
        header[name] = {
            "dtype": "F16",
            "shape": list(shape),
            "data_offsets": [reached, reached + size],
        }
        reached += size
    return raw_safetensors(path, header, bytes(reached))


def raw_safetensors(path: Path, header: Any, data: bytes) -> Path:
    """A file with any header."""
    raw = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path
