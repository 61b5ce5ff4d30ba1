"""How the tensors in a LoRA file are called, and what belongs together. No tensors in here.

A file holds small factors for some of a network's layers; their product, scaled, is added to the
layer's weight. Three ways to build a layer's change are in use, told apart by the tensors' names:

- LoRA (Hu et al. 2021, arXiv:2106.09685), also for convolutions with a third factor in the middle
  ("LoCon" in LyCORIS): lora_down/lora_up, lora_A/lora_B, lora.down/lora.up …
- LoHa (FedPara: Hyeon-Woo et al. 2022, arXiv:2108.06098): hada_w1_a …
- LoKr (KronA: Edalati et al. 2022, arXiv:2212.10650): lokr_w1 …

The last two, and their files' layout, are LyCORIS's (Yeh et al. 2024, arXiv:2309.14859).
"""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum

from genserve.domain.request import Value


class LoraKind(StrEnum):
    """How a layer's change is built from its factors. A file is called by its first layer's."""

    LORA = "lora"
    LOHA = "loha"
    LOKR = "lokr"
    DIFF = "diff"
    """The whole change as it is: beside LoRA factors, for biases and normalisations."""


class LoraSource(Value):
    """A LoRA's file as the catalogue found it. Size, time and inode tell when it is another now."""

    path: str
    sha256: str
    size_bytes: int
    mtime_ns: int
    inode: int


class UnknownTensor(Exception):
    """A tensor that no known kind of LoRA has. The text says what is wrong, after its name."""

    def __init__(self, tensor: str, problem: str) -> None:
        super().__init__(f"{tensor} {problem}")
        self.tensor = tensor
        self.problem = problem


_LORA = r"(?:\.lora|_lora|\.lora_linear_layer)"
_PATTERNS = {
    "down": rf"\.lora_down\.weight|\.lora_A(?:\.\w+)?\.weight|{_LORA}\.down\.weight|\.down\.weight",
    "up": rf"\.lora_up\.weight|\.lora_B(?:\.\w+)?\.weight|{_LORA}\.up\.weight|\.up\.weight",
    "mid": r"\.lora_mid\.weight",
    "up_bias": r"\.lora_B(?:\.\w+)?\.bias",
    "alpha": r"\.alpha",
    "diff": r"\.diff|\.w_norm",
    "diff_b": r"\.diff_b|\.b_norm",
    "hada": r"\.hada_(?P<hada>w1_a|w1_b|w2_a|w2_b|t1|t2)",
    "lokr": r"\.lokr_(?P<lokr>w1|w1_a|w1_b|w2|w2_a|w2_b|t2)",
}
_ENDING = re.compile("(?:" + "|".join(f"(?P<_{n}>{p})" for n, p in _PATTERNS.items()) + ")$")

_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_NEEDED: dict[LoraKind, tuple[tuple[str, ...], ...]] = {
    LoraKind.LORA: (("down", "up"), ("down", "mid", "up")),
    LoraKind.LOHA: (_HADA, (*_HADA, "hada_t1", "hada_t2")),
    LoraKind.LOKR: tuple(
        (*one, *two)
        for one in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
        for two in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"), ("lokr_t2", "lokr_w2_a", "lokr_w2_b"))
    ),
    LoraKind.DIFF: (("diff",), ("diff_b",)),
}
"""Per kind, the factors that a layer must have: exactly one of these sets …"""
_MAY_HAVE = frozenset({"alpha", "diff_b", "up_bias"})
"""… and perhaps a scale, and a change of the bias."""


def split(tensor: str) -> tuple[str, str]:
    """A tensor's layer, as the file calls it, and which factor of the layer it is.

    Raises `UnknownTensor`.
    """
    found = _ENDING.search(tensor)
    if found is None or found.start() == 0:
        raise UnknownTensor(tensor, "is no part of a LoRA, LoHa or LoKr")
    for family in ("hada", "lokr"):
        if found[family]:
            return tensor[: found.start()], f"{family}_{found[family]}"
    return tensor[: found.start()], (found.lastgroup or "").removeprefix("_")


def layers(tensors: Iterable[str]) -> dict[str, dict[str, str]]:
    """The layers of a file: layer → factor → tensor's name. Raises `UnknownTensor`."""
    found: dict[str, dict[str, str]] = {}
    for tensor in tensors:
        layer, factor = split(tensor)
        known = found.setdefault(layer, {})
        if factor in known:
            raise UnknownTensor(tensor, f"is there twice: {known[factor]} is the same factor")
        known[factor] = tensor
    return {layer: factors for layer, factors in found.items() if kind_of(factors) is not None}


def kind_of(factors: Mapping[str, str]) -> LoraKind | None:
    """What a layer's factors make; None for a scale without factors, which scales nothing.

    Raises `UnknownTensor` when a factor is missing or does not belong to the others.
    """
    kind = _kind(factors)
    if kind is None:
        return None
    present = factors.keys() - {"alpha"}
    if any(set(needed) <= present <= {*needed, *_MAY_HAVE} for needed in _NEEDED[kind]):
        return kind
    name = next(iter(factors.values()))
    needed_ones = " or ".join(" + ".join(needed) for needed in _NEEDED[kind])
    has = " + ".join(sorted(present))
    raise UnknownTensor(name, f"is not whole: its layer has {has}, not {needed_ones}")


def _kind(factors: Mapping[str, str]) -> LoraKind | None:
    for factor in factors:
        if factor in ("down", "up", "mid"):
            return LoraKind.LORA
        if factor.startswith("hada_"):
            return LoraKind.LOHA
        if factor.startswith("lokr_"):
            return LoraKind.LOKR
    return LoraKind.DIFF if factors.keys() - {"alpha"} else None
