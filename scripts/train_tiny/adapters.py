"""Small changes to a frozen network's weights: LoRA and LoHa, laid over its linear layers.

A change belongs to one layer or to several that a file format keeps in one matrix (`qkv`): then the
factors on the input's side are common to them. In training the changed weight is computed anew at
each use (torch's parametrizations), so the network runs as it will with the change merged in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Layers = Mapping[str, Sequence[str]]
"""What a file calls a matrix, and the paths of the layers that are in it, one below the other."""


class LowRank(nn.Module):
    """LoRA (Hu et al. 2021): up @ down, nothing at first."""

    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, columns) * columns**-0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def change(self, first: int, last: int) -> Tensor:
        """Rows `first` to `last` of what is added to the weight."""
        return self.up[first:last] @ self.down


class Hadamard(nn.Module):
    """LoHa (Hyeon-Woo et al. 2022): two low-rank products, multiplied number by number.

    The beginning is LyCORIS's, whose names the factors have.
    """

    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.hada_w1_a = nn.Parameter(torch.randn(rows, rank) * 0.1)
        self.hada_w1_b = nn.Parameter(torch.randn(rank, columns))
        self.hada_w2_a = nn.Parameter(torch.zeros(rows, rank))
        self.hada_w2_b = nn.Parameter(torch.randn(rank, columns))

    def change(self, first: int, last: int) -> Tensor:
        """As `LowRank.change`."""
        one = self.hada_w1_a[first:last] @ self.hada_w1_b
        return one * (self.hada_w2_a[first:last] @ self.hada_w2_b)


Adapter = LowRank | Hadamard


class _Changed(nn.Module):
    """The parametrization of one layer's weight."""

    def __init__(self, adapter: Adapter, first: int, last: int) -> None:
        super().__init__()
        self.adapter, self.first, self.last = adapter, first, last

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.adapter.change(self.first, self.last)


def dress(
    network: nn.Module, layers: Layers, make: Callable[[str, int, int], Adapter]
) -> nn.ModuleDict:
    """Lays a new change over each of the layers; returns the changes, which are all that trains.

    `make` is given the matrix's name, rows and columns.
    """
    worn = nn.ModuleDict()
    for name, paths in layers.items():
        below = [_linear(network, path) for path in paths]
        rows = [layer.out_features for layer in below]
        adapter = make(name, sum(rows), below[0].in_features)
        worn[_key(name)] = adapter
        first = 0
        for layer, count in zip(below, rows, strict=True):
            parametrize.register_parametrization(
                layer, "weight", _Changed(adapter, first, first + count)
            )
            first += count
    return worn


def _linear(network: nn.Module, path: str) -> nn.Linear:
    layer = network.get_submodule(path)
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"{path} is no linear layer")
    return layer


def adapters_of(worn: nn.ModuleDict) -> dict[str, Adapter]:
    """The changes by their matrices' names."""
    return {
        key.replace("/", "."): adapter
        for key, adapter in worn.items()
        if isinstance(adapter, LowRank | Hadamard)
    }


def low_ranks_of(worn: nn.ModuleDict) -> dict[str, LowRank]:
    """The same where all are LoRA. Raises `TypeError` when one is not."""
    found = {}
    for name, adapter in adapters_of(worn).items():
        if not isinstance(adapter, LowRank):
            raise TypeError(f"{name} is no LoRA")
        found[name] = adapter
    return found


def _key(name: str) -> str:
    """Modules' names must not have dots."""
    return name.replace(".", "/")


def image_layers(double: int, single: int) -> dict[str, list[str]]:
    """The layers of a Flux transformer's blocks that work on the picture, each by itself."""
    paths = []
    for number in range(double):
        block = f"transformer_blocks.{number}"
        paths += [f"{block}.attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")]
        paths += [f"{block}.{name}" for name in ("ff.net.0.proj", "ff.net.2")]
    for number in range(single):
        block = f"single_transformer_blocks.{number}"
        paths += [f"{block}.attn.{name}" for name in ("to_q", "to_k", "to_v")]
        paths += [f"{block}.{name}" for name in ("proj_mlp", "proj_out")]
    return {path: [path] for path in paths}


def modulation_layers(double: int, single: int) -> dict[str, list[str]]:
    """The layers that turn time, guidance and the pooled text into scales and shifts."""
    paths = [f"transformer_blocks.{number}.norm1.linear" for number in range(double)]
    paths += [f"single_transformer_blocks.{number}.norm.linear" for number in range(single)]
    return {path: [path] for path in paths}


def fused_layers(double: int, single: int) -> dict[str, list[str]]:
    """The same layers as `image_layers`, in the matrices and by the names of FLUX.1's authors."""
    layers: dict[str, list[str]] = {}
    for number in range(double):
        own, theirs = f"transformer_blocks.{number}", f"double_blocks.{number}"
        qkv = [f"{own}.attn.{name}" for name in ("to_q", "to_k", "to_v")]
        layers[f"{theirs}.img_attn.qkv"] = qkv
        layers[f"{theirs}.img_attn.proj"] = [f"{own}.attn.to_out.0"]
        layers[f"{theirs}.img_mlp.0"] = [f"{own}.ff.net.0.proj"]
        layers[f"{theirs}.img_mlp.2"] = [f"{own}.ff.net.2"]
    for number in range(single):
        own, theirs = f"single_transformer_blocks.{number}", f"single_blocks.{number}"
        qkv = [f"{own}.attn.{name}" for name in ("to_q", "to_k", "to_v")]
        layers[f"{theirs}.linear1"] = [*qkv, f"{own}.proj_mlp"]
        layers[f"{theirs}.linear2"] = [f"{own}.proj_out"]
    return layers
