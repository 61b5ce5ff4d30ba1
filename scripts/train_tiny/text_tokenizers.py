"""The two tokenizers, made from the captions' own words.

T5: a Unigram model whose pieces are written down, not learnt: one piece per English word, per
Chinese term and per Chinese character. A word that it does not know becomes a single `<unk>`
instead of a row of letters, so long prompts of other words still fit and do little harm.
CLIP: byte-level BPE learnt from sampled captions, the same in every process.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer, T5TokenizerFast

from . import vocabulary as words
from .byte_pairs import END_OF_WORD, learn_merges
from .captions import caption
from .scenes import sample_spec

# T5's length is the prompt length of the server; 32 tokens hold every caption with room to spare.
MAX_TOKENS = 32
CLIP_MERGES = 448
_CAPTIONS = 20_000
_MERGE_CAPTIONS = 2000
_PUNCTUATION = ",.;:!?'\"()-，。；：！？、"
# Parts of terms that also stand alone in prompts.
_PARTS_ZH = [
    "一个",
    "背景",
    "的背景",
    "花园",
    "夜空",
    "海滩",
    "沙滩",
    "草地",
    "可爱",
    "威武",
    "优雅",
]
_SPACE = "\u2581"
# Scores are log probabilities; a piece must beat the sum of the shorter pieces it is made of.
_TERM_SCORE, _CHARACTER_SCORE, _SPACE_SCORE = -5.0, -9.0, -2.0


def sample_captions(count: int = _CAPTIONS, seed: int = 0) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(count):
        yield caption(sample_spec(rng), rng)


def _chinese_terms() -> list[str]:
    tables = (
        words.SUBJECT_ZH, words.MEASURE_ZH, words.COLOUR_ZH, words.SCENE_ZH, words.POSITION_ZH,
        words.SIZE_ZH,
    )  # fmt: skip
    terms = {term for table in tables for row in table.values() for term in row}
    terms |= {*words.POSE_ZH.values(), *words.FILLER_ZH, *words.QUALITY_ZH, *words.OPENING_ZH}
    terms |= {*_PARTS_ZH}
    return sorted(term for term in terms if re.fullmatch(r"[\u4e00-\u9fff]+", term))


def unigram_pieces() -> list[tuple[str, float]]:
    """Special tokens first, in the order of the ids that T5 expects."""
    terms = _chinese_terms()
    sampled = " ".join(sample_captions()).lower()
    english = sorted(set(re.findall("[a-z0-9]+", sampled)))
    characters = sorted({character for term in terms for character in term})
    pieces = {_SPACE: _SPACE_SCORE}
    for word in english:
        # As a word of its own, and at the start of a sentence.
        pieces |= dict.fromkeys((_SPACE + word, _SPACE + word.title()), _TERM_SCORE)
        if len(word) > 1:
            # After a comma without a space.
            pieces |= dict.fromkeys((word, word.title()), _TERM_SCORE)
    pieces |= dict.fromkeys((*characters, *_PUNCTUATION), _CHARACTER_SCORE)
    pieces |= dict.fromkeys(terms, _TERM_SCORE)
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces.items()]


def build_t5_tokenizer() -> T5TokenizerFast:
    """`T5TokenizerFast` keeps nothing of a tokenizer but its pieces: no normalizer, say."""
    return T5TokenizerFast(
        vocab=unigram_pieces(),
        extra_ids=0,
        model_max_length=MAX_TOKENS,
    )


def build_clip_tokenizer() -> CLIPTokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(_byte_words(sample_captions(_MERGE_CAPTIONS)), CLIP_MERGES)
    pieces = ["<|startoftext|>", "<|endoftext|>", *alphabet]
    pieces += [letter + END_OF_WORD for letter in alphabet]
    pieces += [left + right for left, right in merges]
    numbers = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=numbers, merges=merges, model_max_length=MAX_TOKENS)


def _byte_words(texts: Iterable[str]) -> Iterator[str]:
    """Words as CLIP's tokenizer splits them, each byte as the letter that stands for it."""
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in texts:
        for word in re.findall(r"[^\W\d_]+|\d|[^\s\w]+", text.lower()):
            yield to_bytes.pre_tokenize_str(word)[0][0]
