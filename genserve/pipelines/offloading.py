"""Where weights wait while a GPU does not need them, by accelerate's and diffusers' hooks.

    none         all networks stay on the device
    model        each network is there while it is used: half the memory, a little slower
    group        each layer is there while it is used, the next one comes meanwhile: little memory
    sequential   each layer is there while it is used: least memory, slowest

`group` and `sequential` belong to a network from when it was read. `model` belongs to the picture
that is drawn: its hooks chain the networks of one pipeline, and a network may have several.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, assert_never

import accelerate
import torch
from accelerate.hooks import remove_hook_from_module
from diffusers.hooks import apply_group_offloading

from genserve.domain.model import Offload
from genserve.pipelines.base import DeviceKind

_USED_AS_A_WHOLE = ["MultiheadAttention"]
"""torch's own: it takes its inner layer's weights without calling that layer."""


def place(network: Any, device: DeviceKind, offload: Offload) -> Any:
    """A network that was just read, brought to where it is to be between pictures."""
    match offload:
        case "none":
            return network.to(device)
        case "model":
            return network
        case "group":
            apply_group_offloading(
                network,
                onload_device=torch.device(device),
                offload_type="leaf_level",
                use_stream=device == "cuda",
            )
            return network
        case "sequential":
            return _layer_by_layer(network, device)
        case _:
            assert_never(offload)


@contextmanager
def drawing(pipe: Any, device: DeviceKind, offload: Offload) -> Iterator[None]:
    """While a pipeline draws: its networks come when they are called, and are gone at the end.

    What a pipeline's call does at its good end is also done when it was cancelled.
    """
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    try:
        yield
    finally:
        pipe.maybe_free_model_hooks()
        if offload == "model":
            pipe.remove_all_hooks()


def moved_out(
    found: Callable[[], Iterable[Any]], device: DeviceKind, now: Offload, wanted: Offload
) -> AbstractContextManager[None] | None:
    """While it is open, networks that are placed as `now` wait as `wanted`; then as before.

    `found` is asked again at the end: what was read meanwhile comes to the device too. None where
    that would save nothing, or cannot be done: quantised weights of GGUF and nf4 do not survive
    being taken apart layer by layer.
    """
    networks = list(found())
    match (now, wanted):
        case ("none", "model"):
            return _without_device(networks, found, device)
        case ("none", "sequential") if all(map(_plain, networks)):
            return _chained(_without_device(networks, found, device), _in_layers(networks, device))
        case ("model", "sequential") if all(map(_plain, networks)):
            return _in_layers(networks, device)
        case _:
            return None


@contextmanager
def _without_device(
    networks: list[Any], found: Callable[[], Iterable[Any]], device: DeviceKind
) -> Iterator[None]:
    for network in networks:
        network.to("cpu")
    try:
        yield
    finally:
        for network in [*networks, *found()]:
            network.to(device)


@contextmanager
def _in_layers(networks: list[Any], device: DeviceKind) -> Iterator[None]:
    for network in networks:
        _layer_by_layer(network, device)
    try:
        yield
    finally:
        for network in networks:
            remove_hook_from_module(network, recurse=True)


@contextmanager
def _chained(*contexts: AbstractContextManager[None]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def _plain(network: Any) -> bool:
    return all(type(weight) is torch.nn.Parameter for weight in network.parameters())


def _layer_by_layer(network: Any, device: DeviceKind) -> Any:
    # Buffers follow too where the network itself holds weights, outside of any layer.
    own_weights = len(network._parameters) > 0
    return accelerate.cpu_offload(
        network,
        torch.device(device),
        offload_buffers=own_weights,
        preload_module_classes=_USED_AS_A_WHOLE,
    )
