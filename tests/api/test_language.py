"""Which language is answered, and that both have every text."""

import re

import pytest

from genserve.api.language import WORDS, preferred_language
from genserve.errors import Language


@pytest.mark.parametrize(
    ("header", "default", "language"),
    [
        (None, "zh", "zh"),
        (None, "en", "en"),
        ("", "zh", "zh"),
        ("en", "zh", "en"),
        ("en-GB,en;q=0.9", "zh", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "en", "zh"),
        ("en;q=0.1, zh;q=0.2", "en", "zh"),
        ("zh;q=0, en;q=0.5", "zh", "en"),
        ("*", "zh", "zh"),
        ("fr-FR, fr;q=0.9", "zh", "en"),
        ("fr, zh;q=0.1", "en", "zh"),
        ("en;q=nonsense, zh;q=0.1", "en", "zh"),
        (";;,,=", "zh", "en"),
    ],
)
def test_accept_language_decides(header: str | None, default: Language, language: Language) -> None:
    assert preferred_language(header, default) == language


def test_both_languages_have_every_text_with_the_same_names() -> None:
    for text, words in WORDS.items():
        assert words.keys() == {"en", "zh"}, text
        names = {language: set(re.findall(r"{(\w+)}", words[language])) for language in words}
        assert names["en"] == names["zh"], text
