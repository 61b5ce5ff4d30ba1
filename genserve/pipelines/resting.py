"""Where a network's weight really lies between two pictures, however it is kept in memory."""

from typing import Any

import torch


class Unchangeable(Exception):
    """Why a weight cannot be changed, in words that go behind the name of a LoRA's tensor."""


def weight_at_rest(network: Any, path: str) -> torch.Tensor:
    """The tensor that holds the weight, which may be changed in place. Raises `Unchangeable`.

    With accelerate's sequential offload that is not the parameter, which is empty between uses, but
    the hook's copy in CPU memory. Layerwise casting keeps float8 between uses. What is packed (nf4,
    GGUF, int8) would have to be packed anew, which loses more than most LoRAs add.
    """
    owner, _, leaf = path.rpartition(".")
    layer = network.get_submodule(owner)
    weight = getattr(layer, leaf, None)
    if weight is None:
        raise Unchangeable(f"is for the {leaf} of {owner}, which has none")
    if weight.device.type == "meta":
        weight = _offloaded(layer, leaf)
    if weight is None:
        raise Unchangeable(f"is for {owner}, whose weights are not in memory")
    packed = hasattr(weight, "quant_state") or hasattr(weight, "quant_type")
    if packed or not weight.is_floating_point():
        raise Unchangeable(
            f"is for {owner}, whose weights are quantised, so that no LoRA can be merged into them:"
            " use the model with `quantization: none` or `fp8`"
        )
    tensor: torch.Tensor = weight.data
    return tensor


def _offloaded(layer: Any, leaf: str) -> torch.Tensor | None:
    """The weight in the keeping of an accelerate hook (AlignDevicesHook, or several in a row)."""
    hook = getattr(layer, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        kept = getattr(one, "weights_map", None)
        if kept is not None:
            weight: torch.Tensor = kept[leaf]
            return weight
    return None
