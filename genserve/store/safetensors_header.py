"""Reads the header of a safetensors file, and nothing else of it.

The format (github.com/huggingface/safetensors#format): 8 bytes, little-endian, the header's length;
the header, JSON: tensor name → dtype, shape, data_offsets, beside `__metadata__`, text → text;
the tensors' bytes, without holes or overlaps. Checking that tells a truncated download, which a
process that maps the file would otherwise die of.
"""

import json
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 16 * 2**20
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class BadWeights(Exception):
    """`problem`: what is wrong with the file, in words that fit behind its name."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Header:
    """Shapes by tensor name, the file's own notes, its size, and the header as it stands."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]
    size_bytes: int
    raw: bytes


def read_header(path: Path) -> Header:
    """The checked header of a file. Raises `BadWeights`, `OSError`."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > MAX_HEADER_BYTES:
            raise BadWeights("is not a safetensors file; download it again")
        raw = file.read(length)
    if len(raw) < length:
        raise BadWeights("is incomplete; download it again")
    content = _parsed(raw)
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise BadWeights("has a broken header; download it again")
    _check_text([*content, *metadata, *metadata.values()])
    shapes = _checked(content, size - 8 - length)
    return Header(shapes, metadata, size, raw)


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadWeights("is not a safetensors file; download it again") from None
    if not isinstance(content, dict):
        raise BadWeights("is not a safetensors file; download it again")
    return content


def _check_text(texts: list[str]) -> None:
    """JSON can write half a surrogate pair (\\ud800), which neither safetensors nor UTF-8 takes."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise BadWeights("has a broken header; download it again") from None


def _checked(tensors: dict[str, Any], data_bytes: int) -> dict[str, tuple[int, ...]]:
    spans: list[tuple[int, int]] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        shape, begin, end = _tensor(tensor)
        shapes[name] = shape
        spans.append((begin, end))
    reached = 0
    for begin, end in sorted(spans):
        if begin != reached:
            raise BadWeights("has a broken header; download it again")
        reached = end
    if reached > data_bytes:
        missing = reached - data_bytes
        raise BadWeights(f"is incomplete: {missing} bytes are missing; download it again")
    if reached < data_bytes:
        raise BadWeights("holds more than its header says; download it again")
    return shapes


def _tensor(tensor: Any) -> tuple[tuple[int, ...], int, int]:
    """Shape, first byte and end of one tensor, checked against each other."""
    try:
        dtype, shape, (begin, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise BadWeights("has a broken header; download it again") from None
    numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise BadWeights("has a broken header; download it again")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise BadWeights("has tensors of an unknown type; take another version of it")
    if (end - begin) * 8 != prod(shape) * _BITS[dtype]:
        raise BadWeights("has a broken header; download it again")
    return tuple(shape), begin, end
