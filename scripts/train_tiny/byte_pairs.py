"""Byte-pair merges learnt from text: small, slow and, unlike `tokenizers`' own trainer, the same in
every process. (That one breaks ties by hash order: a resumed run would get other token numbers.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

Pair = tuple[str, str]
END_OF_WORD = "</w>"


def learn_merges(words: Iterable[str], count: int) -> list[Pair]:
    """`count` merges, the commonest pair first; ties go to the pair that sorts first."""
    frequencies = Counter(words)
    splits = {word: (*word[:-1], word[-1] + END_OF_WORD) for word in frequencies}
    merges: list[Pair] = []
    while len(merges) < count:
        pairs: Counter[Pair] = Counter()
        for word, parts in splits.items():
            for pair in pairwise(parts):
                pairs[pair] += frequencies[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        splits = {word: _merge(parts, best) for word, parts in splits.items()}
    return merges


def _merge(parts: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    merged: list[str] = []
    index = 0
    while index < len(parts):
        if parts[index : index + 2] == pair:
            merged.append(parts[index] + parts[index + 1])
            index += 2
        else:
            merged.append(parts[index])
            index += 1
    return tuple(merged)
