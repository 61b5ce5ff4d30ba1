"""What networks wear: LoRAs are merged into the weights, from pristine ones, and taken off again.

A weight that wears something is always `pristine + Σ strength · change`, computed in float32 and
rounded once; never what it was before plus or minus something, which would drift. Taking off copies
the pristine bits back. So a picture without LoRAs is the one of a fresh process, bit for bit.

Pristine copies are kept of the weights that wear something and no others, in CPU memory unless a
budget of the device's own is given. What is worn stays on until another set is asked for: the next
task with the same set pays nothing. It belongs to the network, not to the model: a network that two
models share is asked before each picture what it is to wear.

The decision is in docs/decisions/0008-loras-from-pristine-weights.md.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch

from genserve.domain.lora import LoraSource
from genserve.domain.request import LoraRef
from genserve.domain.task import Degraded
from genserve.errors import LoraDoesNotFit
from genserve.pipelines.lora_files import FileLayer, LoraFiles, OpenLora
from genserve.pipelines.lora_maths import Change
from genserve.pipelines.lora_names import MAIN, Piece, Table, part_of, table_of
from genserve.pipelines.resting import Unchangeable, weight_at_rest

Outfit = tuple[tuple[str, float], ...]
"""What a network wears: the files by their content, and how strongly each."""


@dataclass(frozen=True, slots=True)
class _Addition:
    """A piece of a file's change, and how strongly it is added."""

    change: Change
    piece: Piece
    strength: float


_Plan = dict[str, list[_Addition]]
"""What is added to which weight, by the weight's path."""


@dataclass(slots=True)
class _Dressed:
    """A network's pristine weights that are covered at present, and what covers them."""

    pristine: dict[str, torch.Tensor] = field(default_factory=dict)
    outfit: Outfit = ()


@dataclass(frozen=True, slots=True)
class _Fitting:
    """A LoRA's layers for one part of a model."""

    name: str
    lora: OpenLora
    strength: float
    layers: Sequence[tuple[FileLayer, str]]


class Wardrobe:
    """Dresses the networks of one process. Used by one thread."""

    def __init__(self, device: str, *, files_bytes: int, pristine_bytes: int = 0) -> None:
        """`device` computes. `files_bytes`: CPU memory for files that were read;
        `pristine_bytes`: device memory for pristine weights, beyond which the CPU's is used."""
        self._device = torch.device(device)
        self._files = LoraFiles(files_bytes)
        self._pristine_bytes = pristine_bytes
        self._dressed: WeakKeyDictionary[Any, _Dressed] = WeakKeyDictionary()
        self._tables: WeakKeyDictionary[Any, Table] = WeakKeyDictionary()

    def wear(
        self,
        parts: Mapping[str, Any],
        loras: Sequence[LoraRef] = (),
        files: Mapping[str, LoraSource] | None = None,
        *,
        model: str = "the model",
        check: Callable[[], None] = lambda: None,
    ) -> tuple[Degraded, ...]:
        """Have a model's networks wear exactly these LoRAs; without any: nothing.

        Nothing is touched when a LoRA does not fit, which is told with the name of the `model`.
        `check` is called before each weight: what it raises, or memory that runs out, leaves the
        network it was at with nothing on. Returns what of the LoRAs was left out because the model
        has no such part. Raises `LoraBroken`, `LoraDoesNotFit`.
        """
        fittings, left_out = self._fit(parts, _opened(loras, files or {}, self._files))
        plans = []
        for part, network in parts.items():
            worn = fittings.get(part, [])
            outfit = tuple((fitting.lora.sha256, fitting.strength) for fitting in worn)
            if outfit != self._outfit(network):
                plans.append((network, outfit, self._plan(network, worn, model)))
        for network, outfit, plan in plans:
            self._dress(network, outfit, plan, check)
        return left_out

    def outfit(self, parts: Mapping[str, Any]) -> tuple[Outfit, ...]:
        """What a model's networks wear at present."""
        return tuple(self._outfit(network) for network in parts.values())

    @property
    def held_bytes(self) -> int:
        """What pristine copies and files take of memory."""
        return self._files.held_bytes + sum(_bytes_of(self._copies()))

    def _copies(self) -> Iterable[torch.Tensor]:
        return (copy for dressed in self._dressed.values() for copy in dressed.pristine.values())

    def _outfit(self, network: Any) -> Outfit:
        dressed = self._dressed.get(network) if isinstance(network, torch.nn.Module) else None
        return dressed.outfit if dressed is not None else ()

    # Which layer goes where

    def _fit(
        self, parts: Mapping[str, Any], loras: Iterable[tuple[LoraRef, OpenLora]]
    ) -> tuple[dict[str, list[_Fitting]], tuple[Degraded, ...]]:
        """The LoRAs' layers by the model's parts, and what there is no part for."""
        fittings: dict[str, list[_Fitting]] = {}
        left_out = []
        for asked, lora in loras:
            by_part: dict[str, list[tuple[FileLayer, str]]] = {}
            for layer in lora.layers:
                part, key = part_of(layer.name, parts)
                by_part.setdefault(part, []).append((layer, key))
            for part, layers in by_part.items():
                strength = _strength(asked, part)
                if part in parts and strength:
                    fittings.setdefault(part, []).append(
                        _Fitting(asked.name, lora, strength, layers)
                    )
                elif part not in parts:
                    detail = f"{asked.name}: its layers for {part} ({len(layers)}) were left out."
                    left_out.append(Degraded(code="lora_layers_left_out", detail=detail))
        return fittings, tuple(left_out)

    def _plan(self, network: Any, fittings: Sequence[_Fitting], model: str) -> _Plan:
        """What to add where. Raises `LoraDoesNotFit` for the first layer that does not fit."""
        plan: _Plan = {}
        if not fittings:
            return plan
        if network not in self._tables:
            self._tables[network] = table_of(network)
        table = self._tables[network]
        for fitting in fittings:
            taken: dict[tuple[str, int], str] = {}
            for layer, key in fitting.layers:
                try:
                    for weight, change, piece in _places(network, table, layer, key):
                        place = (weight, piece.into)
                        if place in taken:
                            raise _Misfit(f"changes the same layer as {taken[place]}")
                        taken[place] = layer.tensor
                        addition = _Addition(change, piece, fitting.strength)
                        plan.setdefault(weight, []).append(addition)
                except (_Misfit, Unchangeable) as wrong:
                    reason = f"{layer.tensor} {wrong}"
                    raise LoraDoesNotFit(lora=fitting.name, model=model, reason=reason) from None
        return plan

    # Putting on and taking off

    def _dress(self, network: Any, outfit: Outfit, plan: _Plan, check: Callable[[], None]) -> None:
        dressed = self._dressed.setdefault(network, _Dressed())
        if self._device.type == "cuda":  # nothing may still be on its way to or from the weights
            torch.cuda.synchronize()
        try:
            with torch.no_grad():
                for weight in dressed.pristine.keys() - plan.keys():
                    _restore(network, weight, dressed)
                for weight, additions in plan.items():
                    check()
                    self._merge(network, weight, additions, dressed)
        except BaseException:
            with torch.no_grad():
                for weight in list(dressed.pristine):
                    _restore(network, weight, dressed)
            dressed.outfit = ()
            raise
        dressed.outfit = outfit

    def _merge(
        self, network: Any, weight: str, additions: Sequence[_Addition], dressed: _Dressed
    ) -> None:
        resting = weight_at_rest(network, weight)
        if weight not in dressed.pristine:
            dressed.pristine[weight] = self._copy(resting)
        pristine = dressed.pristine[weight]
        merged = pristine.to(self._device, torch.float32, copy=True).contiguous()
        matrix = merged.view(merged.shape[0], -1)
        for addition in additions:
            piece = addition.piece
            rows = matrix[piece.into : piece.into + piece.rows]
            addition.change.add_to(rows, addition.strength, piece.first_row)
        if resting.dtype != torch.float32:  # beyond the largest number lies no number
            limits = torch.finfo(resting.dtype)
            merged.clamp_(limits.min, limits.max)
        resting.copy_(merged)

    def _copy(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight's bits, on the device while its budget lasts, otherwise in CPU memory."""
        if weight.device.type == "cpu":
            return weight.detach().clone()
        held = sum(_bytes_of(copy for copy in self._copies() if copy.device.type != "cpu"))
        if held + weight.nbytes <= self._pristine_bytes:
            return weight.detach().clone()
        return weight.detach().to("cpu")


class _Misfit(Exception):
    """Why a layer does not fit, in words that go behind its name."""


def _opened(
    loras: Sequence[LoraRef], files: Mapping[str, LoraSource], cache: LoraFiles
) -> list[tuple[LoraRef, OpenLora]]:
    """The LoRAs that do something, in one order whatever the caller's: sums round the same."""
    acting = [lora for lora in loras if lora.weight or lora.text_weight]
    return [
        (lora, cache.get(lora.name, files[lora.name]))
        for lora in sorted(acting, key=lambda lora: lora.name)
    ]


def _strength(asked: LoraRef, part: str) -> float:
    if part in MAIN or asked.text_weight is None:
        return asked.weight
    return asked.text_weight


def _places(
    network: Any, table: Table, layer: FileLayer, key: str
) -> Iterable[tuple[str, Change, Piece]]:
    """Which weights and biases a layer changes, and how. Raises `_Misfit`, `Unchangeable`."""
    pieces = table.get(key)
    if pieces is None:
        raise _Misfit("is for a layer that the model does not have")
    for change, leaf in ((layer.weight, "weight"), (layer.bias, "bias")):
        if change is None:
            continue
        rows = sum(piece.rows for piece in pieces)
        for piece in pieces:
            weight = f"{piece.path}.{leaf}"
            resting = weight_at_rest(network, weight)
            columns = resting[0].numel()
            if (change.rows, change.columns) != (rows, columns):
                has = f"{change.rows}x{change.columns}"
                raise _Misfit(f"makes a change of {has}, but its layer is {rows}x{columns}")
            yield weight, change, piece


def _restore(network: Any, weight: str, dressed: _Dressed) -> None:
    """The pristine bits back where they were, and the copy gone."""
    weight_at_rest(network, weight).copy_(dressed.pristine[weight])
    del dressed.pristine[weight]


def _bytes_of(tensors: Iterable[torch.Tensor]) -> Iterable[int]:
    return (tensor.nbytes for tensor in tensors)
