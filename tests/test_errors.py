"""Every error has its words in every language, and every word belongs to an error."""

import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import get_args

import pytest
import yaml

import genserve
from genserve import errors
from genserve.errors import GenServeError, Language, StartupError, all_errors, from_stored

LANGUAGES: tuple[Language, ...] = get_args(Language)
IN_A_HEADER = {"retry_after_s"}
"""What a caller is told by Retry-After, whether or not the words repeat it."""
TEXTS = Path(genserve.__file__).parent / "texts"


def every_class(base: type[GenServeError] = GenServeError) -> Iterator[type[GenServeError]]:
    yield base
    for derived in base.__subclasses__():
        yield from every_class(derived)


CLASSES = sorted(set(every_class()), key=lambda cls: cls.code)


def example(cls: type[GenServeError]) -> GenServeError:
    return cls(**{name: f"<{name}>" for name in cls.names})


def catalogue(language: Language) -> dict[str, dict[str, str]]:
    found = yaml.safe_load((TEXTS / f"{language}.yaml").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def test_codes_are_unique():
    codes = [cls.code for cls in CLASSES]
    assert len(codes) == len(set(codes)) == len(all_errors())
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", code) for code in codes)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_catalogue_holds_exactly_the_errors_that_exist(language: Language):
    assert set(catalogue(language)) == {cls.code for cls in CLASSES}


def test_no_entry_is_written_twice():
    for language in LANGUAGES:
        lines = (TEXTS / f"{language}.yaml").read_text(encoding="utf-8").splitlines()
        codes = [line for line in lines if re.match(r"\w", line)]
        assert len(codes) == len(set(codes))


def test_catalogues_are_in_the_same_order():
    first, *others = (list(catalogue(language)) for language in LANGUAGES)
    assert all(other == first for other in others)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_words_use_only_what_the_error_knows(cls: type[GenServeError], language: Language):
    words = catalogue(language)[cls.code]
    assert set(words) == {"error", "detail"}
    for text in words.values():
        assert placeholders(text) <= set(cls.names), text


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_parameter_is_told_in_every_language(cls: type[GenServeError]):
    for language in LANGUAGES:
        told = set[str]().union(*map(placeholders, catalogue(language)[cls.code].values()))
        assert set(cls.names) - told <= IN_A_HEADER, language


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_renders_in_every_language(cls: type[GenServeError]):
    error = example(cls)
    for language in LANGUAGES:
        for text in (error.title(language), error.detail(language)):
            assert text.strip() == text
            assert text
            assert not any(f"{{{name}}}" in text for name in cls.names)
    assert str(error) == error.detail("en")
    assert error.detail("en") != error.detail("zh") or error.detail("en").startswith("<")


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_that_was_stored_is_told_again(cls: type[GenServeError]):
    error = example(cls)
    again = from_stored(error.code, error.params)
    assert type(again) is cls
    assert again.params == error.params


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_statuses_and_parameters_are_what_they_seem(cls: type[GenServeError]):
    assert 400 <= cls.status < 600
    assert cls.__doc__ is None or cls.__doc__.strip()
    with pytest.raises(TypeError):
        cls(**{name: 1 for name in cls.names}, no_such_name=1)
    if issubclass(cls, StartupError):
        assert not cls.retryable


def test_a_retry_time_is_given_where_it_is_known():
    assert errors.QueueFull(limit=1, retry_after_s=2.5).retry_after_s == 2.5
    assert errors.InvalidKey().retry_after_s is None


def test_an_unknown_code_is_an_internal_error():
    assert type(from_stored("of_an_older_version", {})) is GenServeError
    assert type(from_stored("queue_full", {"wrong": 1})) is GenServeError


def test_lists_and_numbers_are_readable():
    error = errors.UnknownModel(model="x", available=["a", "b"])
    assert "a, b" in error.detail("en")
    assert "-" in errors.UnknownModel(model="x", available=[]).detail("zh")
    assert "100 " in errors.TaskTimedOut(limit_s=100.0).detail("en")
