"""Captions say what they are told to say, in both languages, within the tokenizers' length."""

from __future__ import annotations

import random

import pytest

from train_tiny import vocabulary as words
from train_tiny.captions import ATTRIBUTES, caption
from train_tiny.palette import COLOURS
from train_tiny.scenes import SceneSpec, sample_spec
from train_tiny.text_tokenizers import MAX_TOKENS, build_clip_tokenizer, build_t5_tokenizer

EVERYTHING = frozenset(ATTRIBUTES)


def _mentions(text: str, terms: tuple[str, ...]) -> bool:
    return any(term in text.lower() for term in terms)


def _terms(english: dict[str, tuple[str, ...]], name: str) -> tuple[str, ...]:
    return english.get(name, (name,))


@pytest.mark.parametrize("seed", range(40))
def test_caption_mentions_what_the_spec_says(seed: int) -> None:
    rng = random.Random(seed)
    spec = sample_spec(rng)
    english = caption(spec, rng, "en", EVERYTHING)
    chinese = caption(spec, rng, "zh", EVERYTHING)
    assert _mentions(english, _terms(words.SUBJECT_EN, spec.subject))
    assert _mentions(chinese, words.SUBJECT_ZH[spec.subject])
    assert _mentions(english, _terms(words.COLOUR_EN, spec.colour))
    assert _mentions(chinese, words.COLOUR_ZH[spec.colour])
    assert _mentions(english, words.POSITION_EN[spec.position])
    assert _mentions(chinese, words.POSITION_ZH[spec.position])
    assert _mentions(english, words.SIZE_EN[spec.size])
    assert _mentions(chinese, words.SIZE_ZH[spec.size])
    if spec.background in COLOURS:
        assert _mentions(english, _terms(words.COLOUR_EN, spec.background))
        assert _mentions(chinese, words.COLOUR_ZH[spec.background])
    else:
        assert _mentions(english, words.SCENE_EN[spec.background])
        assert _mentions(chinese, words.SCENE_ZH[spec.background])


def test_caption_can_leave_everything_but_the_subject_out() -> None:
    spec = SceneSpec("swan", "white", "red", "left", "large", "", "1:1", 0)
    for seed in range(20):
        text = caption(spec, random.Random(seed), "en", frozenset())
        assert "swan" in text.lower()
        assert not _mentions(text, ("red", "white", "left", "large"))


def test_tokenizers_know_every_caption() -> None:
    t5, clip = build_t5_tokenizer(), build_clip_tokenizer()
    rng = random.Random(1)
    texts = [caption(sample_spec(rng), rng) for _ in range(400)]
    texts += ["一只可爱的小猫坐在花园里", "一只可爱的小猫", "一只威武的狮子", "一只优雅的天鹅"]
    for ids in t5(texts).input_ids:
        assert t5.unk_token_id not in ids
        assert len(ids) <= MAX_TOKENS
    assert t5.model_max_length == clip.model_max_length == MAX_TOKENS


def test_unknown_words_do_not_fill_the_prompt() -> None:
    t5 = build_t5_tokenizer()
    assert len(t5("a red cat beneath extraordinarily voluminous cumulonimbus").input_ids) < 24
