"""LoRA files in memory: read once, checked, each layer's factors ready to be multiplied."""

import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from genserve.domain.lora import LoraKind, LoraSource, UnknownTensor, kind_of, layers
from genserve.errors import LoraBroken
from genserve.pipelines.lora_maths import Change, IllShaped, Whole, change_of
from genserve.pipelines.lora_names import MAIN

ADAPTER_METADATA = "lora_adapter_metadata"
"""Where diffusers and peft write a LoRA's configuration: its factors alone do not tell α."""
_PARTS = ("text_encoder_3", "text_encoder_2", "text_encoder", *MAIN)


@dataclass(frozen=True, slots=True)
class FileLayer:
    """What a file changes of one layer: its weight, its bias, or both. `tensor` names the first."""

    name: str
    tensor: str
    weight: Change | None
    bias: Change | None


@dataclass(frozen=True, slots=True)
class OpenLora:
    """A LoRA file in memory."""

    name: str
    sha256: str
    layers: tuple[FileLayer, ...]
    size_bytes: int


class LoraFiles:
    """The files that were read last, within a budget of memory."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._open: OrderedDict[str, OpenLora] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        """What the files in memory take."""
        return sum(lora.size_bytes for lora in self._open.values())

    def get(self, name: str, source: LoraSource) -> OpenLora:
        """The file, from memory if it is there. Raises `LoraBroken`."""
        lora = self._open.pop(source.sha256, None) or read(name, source)
        self._open[source.sha256] = lora
        while len(self._open) > 1 and self.held_bytes > self._budget_bytes:
            self._open.popitem(last=False)
        return lora


def read(name: str, source: LoraSource) -> OpenLora:
    """Read and check a file. Raises `LoraBroken` that names the first wrong tensor."""
    path = Path(source.path)
    try:
        _refuse_another(name, path, source)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {tensor: file.get_tensor(tensor) for tensor in file.keys()}  # noqa: SIM118
        _refuse_another(name, path, source)  # it may have been replaced meanwhile
    except (OSError, SafetensorError):
        raise LoraBroken(lora=name, reason=f"{path.name} cannot be read; put it back") from None
    try:
        _check_numbers(tensors)
        found = tuple(_layers(tensors, _Scales.of(metadata)))
    except UnknownTensor as wrong:
        raise LoraBroken(lora=name, reason=f"{path.name}: {wrong}") from None
    size_bytes = sum(tensor.nbytes for tensor in tensors.values())
    return OpenLora(name, source.sha256, found, size_bytes)


def _refuse_another(name: str, path: Path, source: LoraSource) -> None:
    """Nothing is merged under another file's description. Raises `LoraBroken`, `OSError`."""
    stat = path.stat()
    found = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    if found != (source.size_bytes, source.mtime_ns, source.inode):
        reason = f"{path.name} was replaced after the task was accepted; send the request again"
        raise LoraBroken(lora=name, reason=reason)


def _check_numbers(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse what would spoil every picture, or divide by zero."""
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            raise UnknownTensor(name, "is empty")
        if not tensor.is_floating_point() or not bool(tensor.float().isfinite().all()):
            raise UnknownTensor(name, "holds numbers that are not finite")


def _layers(tensors: Mapping[str, torch.Tensor], scales: "_Scales") -> Iterator[FileLayer]:
    """Every layer of the file. Raises `UnknownTensor` for the first wrong tensor."""
    for name, names in layers(tensors).items():
        factors = {factor: tensors[tensor] for factor, tensor in names.items()}
        kind = kind_of(names)
        try:
            scale = scales.of_layer(name) if "alpha" not in factors else None
            weight = None
            if kind is not None and not (kind is LoraKind.DIFF and "diff" not in factors):
                weight = change_of(kind, factors, scale)
            bias = _bias(factors)
        except IllShaped as wrong:
            raise UnknownTensor(names[wrong.factor], wrong.problem) from None
        yield FileLayer(name, next(iter(names.values())), weight, bias)


def _bias(factors: Mapping[str, torch.Tensor]) -> Change | None:
    for factor in ("diff_b", "up_bias"):
        if factor in factors:
            if factors[factor].dim() != 1:
                raise IllShaped(factor, "is no bias")
            return Whole(factors[factor])
    return None


@dataclass(frozen=True, slots=True)
class _Scales:
    """α/r of layers by peft's configuration (LoraConfig), per part of the model."""

    config: Mapping[str, Any]

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "_Scales":
        try:
            config = json.loads(metadata.get(ADAPTER_METADATA, "{}"))
        except (ValueError, RecursionError):
            config = {}
        return cls(config if isinstance(config, dict) else {})

    def of_layer(self, layer: str) -> float | None:
        """The scale that the configuration gives a layer; None: it says nothing."""
        part = next((part for part in _PARTS if layer.startswith(f"{part}.")), "")
        own = {
            key.removeprefix(f"{part}."): value
            for key, value in self.config.items()
            if not part or key.startswith(f"{part}.")
        }
        path = layer.removeprefix(f"{part}.")
        alpha = _by_pattern(own.get("alpha_pattern"), path, own.get("lora_alpha"))
        rank = _by_pattern(own.get("rank_pattern"), path, own.get("r"))
        if alpha is None or not rank:
            return None
        return alpha / (sqrt(rank) if own.get("use_rslora") else rank)


def _by_pattern(patterns: Any, path: str, otherwise: Any) -> float | None:
    """The value whose pattern a path ends with, as peft looks it up (get_pattern_key).

    Patterns are read as plain names, which is what diffusers writes: an expression out of a file
    could take for ever.
    """
    if isinstance(patterns, dict):
        for pattern, value in patterns.items():
            name = str(pattern).removeprefix("^").removesuffix("$")
            if re.search(r"[*+?()\[\]{}|\\]", name):
                raise UnknownTensor(path, f"has a rank or alpha by an expression: {pattern}")
            if path == name or path.endswith(f".{name}"):
                return _number(value)
    return _number(otherwise)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
