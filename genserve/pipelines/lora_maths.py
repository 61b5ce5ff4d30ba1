"""What a layer's factors add to its weight: the mathematics of LoRA, LoHa and LoKr.

A change is a matrix of `rows` x `columns`: a linear layer's weight as it is, a convolution's with
everything but its output channels in the columns. All of it is computed in float32.

- LoRA: ΔW = α/r · U D (arXiv:2106.09685). With a middle factor of a convolution the product of
  three: CP decomposition, ΔW[o,i,x,y] = α/r · Σ U[o,p] M[p,q,x,y] D[q,i].
- LoHa: ΔW = α/r · (A₁B₁) ∘ (A₂B₂), the entrywise product of two matrices of rank r
  (arXiv:2108.06098). With t1 and t2 each of the two is Tucker's: Σ T[p,q,x,y] A[p,o] B[q,i].
- LoKr: ΔW = α/r · W₁ ⊗ W₂ (arXiv:2212.10650), where either may itself be a product of two, and W₂
  Tucker's with t2. Where neither is a product there is no rank, and the scale is 1 (LyCORIS,
  arXiv:2309.14859).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol, assert_never

import torch

from genserve.domain.lora import LoraKind

Factors = Mapping[str, torch.Tensor]


class IllShaped(Exception):
    """Factors that cannot be multiplied. `factor` names the first wrong one."""

    def __init__(self, factor: str, problem: str) -> None:
        super().__init__(f"{factor} {problem}")
        self.factor = factor
        self.problem = problem


class Change(Protocol):
    """What is to be added to a weight. Holds the factors as they are in the file."""

    @property
    def rows(self) -> int:
        """As the layer's output is wide."""
        ...

    @property
    def columns(self) -> int:
        """As the layer's input is wide, times a convolution's kernel."""
        ...

    def add_to(self, weight: torch.Tensor, strength: float, first_row: int = 0) -> None:
        """Add `strength` times its rows from `first_row` on, as many as `weight` has.

        `weight` is a float32 matrix with `columns` columns, changed in place.
        """
        ...


def change_of(kind: LoraKind, factors: Factors, scale: float | None) -> Change:
    """The change that these factors make. `scale` is α/r where the file says it otherwise.

    Raises `IllShaped`.
    """
    match kind:
        case LoraKind.LORA:
            return _lora(factors, scale)
        case LoraKind.LOHA:
            return _loha(factors, scale)
        case LoraKind.LOKR:
            return _lokr(factors, scale)
        case LoraKind.DIFF:
            return Whole(factors["diff"])
        case _:
            assert_never(kind)


@dataclass(frozen=True, slots=True)
class Whole:
    """A change that is stored as it is, of a weight or a bias."""

    matrix: torch.Tensor

    @property
    def rows(self) -> int:
        """Of a bias: its length."""
        return self.matrix.shape[0]

    @property
    def columns(self) -> int:
        """Of a bias: 1."""
        return prod(self.matrix.shape[1:])

    def add_to(self, weight: torch.Tensor, strength: float, first_row: int = 0) -> None:
        """See `Change`."""
        part = self.matrix[first_row : first_row + weight.shape[0]]
        weight.add_(_float(part, weight).reshape(weight.shape), alpha=strength)


@dataclass(frozen=True, slots=True)
class Product:
    """LoRA: `up` (rows x r), `mid` (r x q x height x width, if any), `down` (r or q x columns)."""

    up: torch.Tensor
    down: torch.Tensor
    mid: torch.Tensor | None
    scale: float

    @property
    def rows(self) -> int:
        return self.up.shape[0]

    @property
    def columns(self) -> int:
        kernel = 1 if self.mid is None else prod(self.mid.shape[2:])
        return prod(self.down.shape[1:]) * kernel

    def add_to(self, weight: torch.Tensor, strength: float, first_row: int = 0) -> None:
        """See `Change`."""
        up = _float(self.up[first_row : first_row + weight.shape[0]], weight).flatten(1)
        down = _float(self.down, weight).flatten(1)
        if self.mid is not None:
            mid = _float(self.mid, weight)
            down = torch.einsum("p q x y, q i -> p i x y", mid, down).flatten(1)
        weight.addmm_(up, down, alpha=strength * self.scale)


@dataclass(frozen=True, slots=True)
class Hadamard:
    """LoHa: two pairs of factors, each with a core where it is Tucker's."""

    pairs: tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None], ...]
    scale: float
    rows: int
    columns: int

    def add_to(self, weight: torch.Tensor, strength: float, first_row: int = 0) -> None:
        """See `Change`."""
        last_row = first_row + weight.shape[0]
        one, two = (
            _pair(_rows_of(a, core, first_row, last_row), b, core, weight)
            for a, b, core in self.pairs
        )
        weight.addcmul_(one, two, value=strength * self.scale)


@dataclass(frozen=True, slots=True)
class Kronecker:
    """LoKr: two factors, each whole (`a` alone) or a pair; the second with a core if Tucker's."""

    one: tuple[torch.Tensor, torch.Tensor | None]
    two: tuple[torch.Tensor, torch.Tensor | None]
    core: torch.Tensor | None
    scale: float
    rows: int
    columns: int

    def add_to(self, weight: torch.Tensor, strength: float, first_row: int = 0) -> None:
        """See `Change`."""
        one = _whole(*self.one, None, weight)
        two = _whole(*self.two, self.core, weight)
        whole = torch.kron(one, two)
        part = whole[first_row : first_row + weight.shape[0]]
        weight.add_(part, alpha=strength * self.scale)


def _lora(factors: Factors, scale: float | None) -> Product:
    up, down, mid = factors["up"], factors["down"], factors.get("mid")
    for name in ("up", "down"):
        _refuse(factors[name].dim() not in (2, 4), name, factors[name], "a matrix or convolution")
    _refuse(mid is not None and mid.dim() != 4, "mid", mid, "a convolution")
    rank = up.shape[1]
    _refuse(prod(up.shape[2:]) != 1, "up", up, f"{up.shape[0]}x{rank}x1x1")
    if mid is None:
        _refuse(down.shape[0] != rank, "down", down, f"{rank} rows, as many as up has columns")
    else:
        fits = mid.shape[:2] == (rank, down.shape[0]) and prod(down.shape[2:]) == 1
        _refuse(not fits, "mid", mid, f"{rank}x{down.shape[0]}x…")
    return Product(up, down, mid, _scale(factors, down.shape[0]) if scale is None else scale)


def _loha(factors: Factors, scale: float | None) -> Hadamard:
    pairs = []
    for n in (1, 2):
        a, b = factors[f"hada_w{n}_a"], factors[f"hada_w{n}_b"]
        pairs.append((a, b, factors.get(f"hada_t{n}")))
    shapes = [
        _pair_shape(a, b, core, (f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}"))
        for n, (a, b, core) in enumerate(pairs, start=1)
    ]
    first = "x".join(map(str, shapes[0]))
    _refuse(shapes[0] != shapes[1], "hada_w2_a", pairs[1][0], f"for {first}, as the first pair")
    own_scale = _scale(factors, factors["hada_w1_b"].shape[0])
    return Hadamard(tuple(pairs), own_scale if scale is None else scale, *shapes[0])


def _lokr(factors: Factors, scale: float | None) -> Kronecker:
    sides: list[tuple[torch.Tensor, torch.Tensor | None]] = []
    shapes: list[tuple[int, int]] = []
    rank: int | None = None
    core = factors.get("lokr_t2")
    for n in (1, 2):
        whole, a, b = (factors.get(f"lokr_w{n}{end}") for end in ("", "_a", "_b"))
        if whole is not None:
            _refuse(whole.dim() not in (2, 4), f"lokr_w{n}", whole, "a matrix or convolution")
            shapes.append((whole.shape[0], prod(whole.shape[1:])))
            sides.append((whole, None))
        else:
            a, b = factors[f"lokr_w{n}_a"], factors[f"lokr_w{n}_b"]
            names = (f"lokr_w{n}_a", f"lokr_w{n}_b", f"lokr_t{n}")
            shapes.append(_pair_shape(a, b, core if n == 2 else None, names))
            sides.append((a, b))
            rank = b.shape[0]
    if scale is None:
        scale = 1.0 if rank is None else _scale(factors, rank)
    (rows_1, columns_1), (rows_2, columns_2) = shapes
    one, two = sides
    return Kronecker(one, two, core, scale, rows_1 * rows_2, columns_1 * columns_2)


def _pair_shape(
    a: torch.Tensor, b: torch.Tensor, core: torch.Tensor | None, names: tuple[str, str, str]
) -> tuple[int, int]:
    """Rows and columns of `a b`, or of Tucker's product with the core."""
    for tensor, name in ((a, names[0]), (b, names[1])):
        _refuse(tensor.dim() != 2, name, tensor, "a matrix")
    if core is None:
        _refuse(b.shape[0] != a.shape[1], names[1], b, f"{a.shape[1]} rows")
        return a.shape[0], b.shape[1]
    fits = core.dim() > 2 and core.shape[:2] == (a.shape[0], b.shape[0])
    _refuse(not fits, names[2], core, f"{a.shape[0]}x{b.shape[0]}x…")
    return a.shape[1], b.shape[1] * prod(core.shape[2:])


def _pair(
    a: torch.Tensor, b: torch.Tensor, core: torch.Tensor | None, like: torch.Tensor
) -> torch.Tensor:
    """The product as a matrix, in float32 where `like` is."""
    a, b = _float(a, like), _float(b, like)
    if core is None:
        return a @ b
    return torch.einsum("p q ..., p o, q i -> o i ...", _float(core, like), a, b).flatten(1)


def _rows_of(a: torch.Tensor, core: torch.Tensor | None, first: int, last: int) -> torch.Tensor:
    """The part of a pair's first factor that makes these rows. With a core it lies on its side."""
    return a[first:last] if core is None else a[:, first:last]


def _whole(
    a: torch.Tensor, b: torch.Tensor | None, core: torch.Tensor | None, like: torch.Tensor
) -> torch.Tensor:
    return _float(a, like).flatten(1) if b is None else _pair(a, b, core, like)


def _float(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return tensor.to(like.device, torch.float32)


def _scale(factors: Factors, rank: int) -> float:
    """α/r; α is the rank where the file says nothing."""
    alpha = factors.get("alpha")
    if alpha is None:
        return 1.0
    _refuse(alpha.numel() != 1, "alpha", alpha, "one number")
    return float(alpha) / rank


def _refuse(wrong: bool, factor: str, tensor: torch.Tensor | None, right: str) -> None:
    if wrong and tensor is not None:
        shape = "x".join(map(str, tensor.shape)) or "one number"
        raise IllShaped(factor, f"is {shape}, but should be {right}")
