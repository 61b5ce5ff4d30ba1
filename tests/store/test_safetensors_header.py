"""Headers that lie are refused before anything maps the file."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genserve.store.safetensors_header import MAX_HEADER_BYTES, BadWeights, read_header
from tests.store.tensors import raw_safetensors, safetensors


def test_a_right_file(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "a", {"x": (2, 3), "y": (), "z": (0, 5)}, {"note": "hi"})
    header = read_header(path)
    assert header.shapes == {"x": (2, 3), "y": (), "z": (0, 5)}
    assert header.metadata == {"note": "hi"}
    assert header.size_bytes == path.stat().st_size


def tensor(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]} | changes


WRONG: dict[str, tuple[Any, int]] = {
    "hole": ({"a": tensor(), "b": tensor(data_offsets=[5, 9])}, 9),
    "overlap": ({"a": tensor(), "b": tensor(data_offsets=[2, 6])}, 6),
    "starts late": ({"a": tensor(data_offsets=[1, 5])}, 5),
    "too short": ({"a": tensor()}, 3),
    "too long": ({"a": tensor()}, 5),
    "shape and bytes differ": ({"a": tensor(shape=[3])}, 4),
    "overflowing shape": ({"a": tensor(shape=[2**62, 2**62])}, 4),
    "negative": ({"a": tensor(shape=[-2], data_offsets=[0, -4])}, 4),
    "boolean": ({"a": tensor(shape=[True, 2])}, 4),
    "fraction": ({"a": tensor(shape=[2.0])}, 4),
    "text": ({"a": tensor(shape="2")}, 4),
    "unknown type": ({"a": tensor(dtype="F99")}, 4),
    "a type that is a list": ({"a": tensor(dtype=["F16"])}, 4),
    "a name that is half a character": ({"\ud800": tensor()}, 4),
    "notes of half a character": ({"__metadata__": {"a": "\ud800"}, "a": tensor()}, 4),
    "no type": ({"a": {"shape": [2], "data_offsets": [0, 4]}}, 4),
    "three offsets": ({"a": tensor(data_offsets=[0, 2, 4])}, 4),
    "no tensor": ({"a": 5}, 4),
    "notes that are no text": ({"__metadata__": {"a": 1}, "a": tensor()}, 4),
    "a list": ([tensor()], 4),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file(tmp_path: Path, name: str) -> None:
    header, size = WRONG[name]
    with pytest.raises(BadWeights):
        read_header(raw_safetensors(tmp_path / "a", header, bytes(size)))


def test_a_header_that_says_it_is_huge_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}")
    with pytest.raises(BadWeights, match="not a safetensors file"):
        read_header(path)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), length=st.integers(0, 250))
def test_whatever_a_file_holds_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + data)
    with contextlib.suppress(BadWeights):
        read_header(path)
