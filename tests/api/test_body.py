"""JSON is refused before it can cost memory, and read as it is otherwise."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genserve.api.body import parse_json
from genserve.errors import MalformedBody

DEPTH = 8
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(VALUES, st.booleans())
def test_what_json_holds_comes_back_unless_it_is_too_deep(value: Any, ascii_only: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    if depth(value) > DEPTH:
        with pytest.raises(MalformedBody, match="deeper"):
            parse_json(data, DEPTH, "en")
    elif any("\ud800" <= character <= "\udfff" for character in data.decode(errors="replace")):
        pytest.fail("JSON of hypothesis' texts is UTF-8")
    else:
        assert parse_json(data, DEPTH, "en") == value


@given(st.binary(max_size=64) | st.text(alphabet='{}[]",:\\1ae ', max_size=64).map(str.encode))
def test_any_bytes_are_a_value_or_one_error(data: bytes) -> None:
    try:
        expected = json.loads(data.decode())
    except ValueError:
        with pytest.raises(MalformedBody):
            parse_json(data, 64, "en")
    else:
        if b'"' not in data and "N" not in data.decode() and "I" not in data.decode():
            assert parse_json(data, 64, "en") == expected


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not valid JSON at line 1"),
        (b'{"a": 1', "not valid JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"seed": 1, "seed": 2}', "seed is given twice"),
        (b'{"cfg": NaN}', "NaN"),
        (b'{"cfg": -Infinity}', "NaN"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "huge numbers"),
        (b"[" * 33 + b"]" * 33, "deeper than 32"),
        (b"[" * 1_000_000, "too many values"),
        (b"[" * 60_000, "deeper than 32"),
        (b"[{}," * 100_000 + b"1]", "too many values"),
        (b'[""' + b',""' * 100_000 + b"]", "too many values"),
        (b'"' + b'\\"' * 2_000_000, "too many values"),
    ],
)
def test_each_way_to_be_wrong_is_named(data: bytes, words: str) -> None:
    with pytest.raises(MalformedBody, match=words):
        parse_json(data, 32, "en")


def test_brackets_inside_texts_are_no_depth() -> None:
    assert parse_json(b'{"a": "[[[[\\"[[[["}', 1, "en") == {"a": '[[[["[[[['}


def test_the_words_are_chinese_for_who_reads_chinese() -> None:
    with pytest.raises(MalformedBody, match="嵌套"):
        parse_json(b"[[[]]]", 2, "zh")
