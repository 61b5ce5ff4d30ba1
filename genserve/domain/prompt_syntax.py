"""How people weigh words in prompts: A1111's brackets, read into plain text and numbers.

    (word)        1.1 times the attention; ((word)) 1.21 times
    [word]        1/1.1 times the attention
    (word:1.3)    1.3 times the attention
    \\( \\) \\[ \\] \\\\   the characters themselves
    BREAK         what follows is encoded apart, in its own 75 tokens

Weights inside of each other multiply. What is not balanced is read literally, as everything else
is: there is no prompt that cannot be read. Not in it, and so literal text: A1111's prompt editing
`[from:to:0.5]` and alternation `[a|b]` (their brackets still weigh), `AND`, and compel's own signs.
"""

import re
from dataclasses import dataclass

ROUND, SQUARE = 1.1, 1 / 1.1
HIGHEST = 10.0
"""Weights beyond it say no more, and numbers in a network must stay finite."""

_PIECES = re.compile(
    r"""
    \\[()\[\]\\]                                        # escaped
    | [(\[\]]
    | : \s* [+-]? (?: \d+ (?: \. \d* )? | \. \d+ ) \s* \)   # a weight and its closing bracket
    | \)
    | \b BREAK \b
    | [^\\()\[\]:B]+ | .                                # text
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Fragment:
    """Text of one weight; 1 is plain."""

    text: str
    weight: float = 1.0


Chunk = tuple[Fragment, ...]


def parse(prompt: str) -> tuple[Chunk, ...]:
    """The prompt's chunks, which BREAK separates, as fragments of different weights.

    Neighbours of equal weight are one fragment, so that a prompt without weights is one with its
    text unchanged. No fragment is blank; a chunk of an empty prompt has none.
    """
    pieces = _PIECES.findall(prompt)
    factors, closing = _pairs(pieces)
    chunks: list[list[Fragment]] = [[]]
    weights = [1.0]
    for index, piece in enumerate(pieces):
        if index in closing:
            weights.pop()
        elif index in factors:
            weights.append(weights[-1] * factors[index])
        elif piece == "BREAK":
            chunks.append([])
        else:
            _append(chunks[-1], _literal(piece), _weight(weights[-1]))
    return tuple(_tidy(chunk) for chunk in chunks)


def _pairs(pieces: list[str]) -> tuple[dict[int, float], set[int]]:
    """The factor of each opening bracket that is closed, and which pieces close one.

    A bracket closes the innermost open one of its kind; others that were opened since then stay
    open for ever, and are text.
    """
    factors: dict[int, float] = {}
    closing: set[int] = set()
    opened: list[int] = []
    waiting = {"(": 0, "[": 0}  # so that nothing is searched for in vain
    for index, piece in enumerate(pieces):
        if piece in waiting:
            opened.append(index)
            waiting[piece] += 1
        elif piece == "]" or (piece[-1] == ")" and piece[0] != "\\"):
            bracket = "[" if piece == "]" else "("
            while waiting[bracket]:
                begin = opened.pop()
                waiting[pieces[begin]] -= 1
                if pieces[begin] == bracket:
                    factors[begin] = _factor(piece)
                    closing.add(index)
                    break
    return factors, closing


def _factor(closing: str) -> float:
    match closing:
        case "]":
            return SQUARE
        case ")":
            return ROUND
        case _:
            return max(0.0, float(closing[1:-1]))


def _literal(piece: str) -> str:
    return piece[1:] if len(piece) == 2 and piece.startswith("\\") else piece


def _weight(weight: float) -> float:
    """Rounded, so that ([word]) is plain again."""
    return round(max(0.0, min(weight, HIGHEST)), 4)


def _append(chunk: list[Fragment], text: str, weight: float) -> None:
    if chunk and chunk[-1].weight == weight:
        chunk[-1] = Fragment(chunk[-1].text + text, weight)
    else:
        chunk.append(Fragment(text, weight))


def _tidy(chunk: list[Fragment]) -> Chunk:
    return tuple(fragment for fragment in chunk if fragment.text.strip())
