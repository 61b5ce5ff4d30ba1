"""A1111's brackets: what they weigh, and that no prompt cannot be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genserve.domain.prompt_syntax import HIGHEST, Fragment, parse


def only(prompt: str) -> list[tuple[str, float]]:
    """The fragments of a prompt without BREAK."""
    (chunk,) = parse(prompt)
    return [(part.text, part.weight) for part in chunk]


@pytest.mark.parametrize(
    ("prompt", "fragments"),
    [
        ("a cat", [("a cat", 1)]),
        ("a (red) cat", [("a ", 1), ("red", 1.1), (" cat", 1)]),
        ("((red))", [("red", 1.21)]),
        ("[red]", [("red", 0.9091)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("(red: 1.3 )", [("red", 1.3)]),
        ("(red:.5)", [("red", 0.5)]),
        ("(red:+2)", [("red", 2)]),
        ("(a (b:2) c:1.5)", [("a ", 1.5), ("b", 3), (" c", 1.5)]),
        ("(a [b] c)", [("a ", 1.1), ("b", 1), (" c", 1.1)]),
        ("([a])", [("a", 1)]),
        ("(red:0)", [("red", 0)]),
        ("(red:-1)", [("red", 0)]),
        ("(red:99)", [("red", HIGHEST)]),
        ("(a:1.0) cat", [("a cat", 1)]),
        ("猫，(红色:1.2)", [("猫，", 1), ("红色", 1.2)]),
    ],
)
def test_weights(prompt: str, fragments: list[tuple[str, float]]) -> None:
    assert only(prompt) == fragments


@pytest.mark.parametrize(
    "prompt",
    [
        "a smile :)",
        ":( and :[",
        "(open",
        "closed)",
        "closed]",
        "a:1.2)",
        "1 < 2 & 3 {x} <lora:y:1>",
        "BREAKFAST at Tiffany's",
        "C:\\dir",
        "a++ b-",
        'cat.blend "x".and',
    ],
)
def test_what_is_no_weight_is_text(prompt: str) -> None:
    assert only(prompt) == [(prompt, 1)]


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (r"\(a\)", "(a)"),
        (r"\[a\]", "[a]"),
        (r"a\\b", r"a\b"),
        (r"\(a:1.2\)", "(a:1.2)"),
    ],
)
def test_escaped_brackets_are_brackets(prompt: str, text: str) -> None:
    assert only(prompt) == [(text, 1)]


def test_a_bracket_inside_of_another_kind_that_is_never_closed_is_text() -> None:
    assert only("(a [b) c]") == [("a [b", 1.1), (" c]", 1)]
    assert only("(a:1.2.3)") == [("a:1.2.3", 1.1)]


def test_break_parts_the_prompt_and_weights_go_on() -> None:
    first, second = parse("a (b BREAK c) d")
    assert first == (Fragment("a "), Fragment("b ", 1.1))
    assert second == (Fragment(" c", 1.1), Fragment(" d"))
    assert parse("") == ((),)
    assert len(parse("BREAK")) == 2


BRACKETS = st.text(alphabet="ab ()[]\\:.0123456789BREAK-+", max_size=200)


@given(BRACKETS | st.text(max_size=200))
def test_no_prompt_cannot_be_read(prompt: str) -> None:
    for chunk in parse(prompt):
        for part in chunk:
            assert part.text.strip()
            assert 0 <= part.weight <= HIGHEST


@given(st.text(alphabet=st.characters(exclude_characters="()[]\\B"), min_size=1, max_size=100))
def test_a_prompt_without_brackets_is_unchanged(prompt: str) -> None:
    assert only(prompt) == ([(prompt, 1)] if prompt.strip() else [])


@given(BRACKETS)
def test_every_letter_is_kept(prompt: str) -> None:
    """Only brackets, weights, escapes and BREAK may be gone."""
    kept = "".join(part.text for chunk in parse(prompt) for part in chunk)
    letters = [letter for letter in prompt.replace("BREAK", "") if letter in "ab"]
    assert [letter for letter in kept if letter in "ab"] == letters


@pytest.mark.parametrize("prompt", ["[" * 20_000, "([" * 10_000, "[" * 9000 + ")" * 9000])
def test_a_prompt_of_brackets_alone_is_read_at_once(prompt: str) -> None:
    assert "".join(text for text, _ in only(prompt)) == prompt
