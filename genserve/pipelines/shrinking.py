"""Configurations of the same make with fewer and narrower layers: full-size models for a CPU.

For tests, which run with a shrunken model what a GPU runs with the full-size one. Networks that fit
together still do: widths that one network takes from another are divided alike. Kept are the size
of an attention head, latent channels, vocabularies, and by how much a VAE makes pictures smaller.
"""

import math
from typing import Any

FACTORS = (1, 2, 4, 8, 16, 32)
"""By these every width of the known architectures can be divided."""

_WIDTHS_AND_LAYERS = frozenset(
    {
        # text and vision encoders
        "d_ff",
        "d_model",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_decoder_layers",
        "num_heads",
        "num_hidden_layers",
        "projection_dim",
        # transformers and what Redux adds
        "joint_attention_dim",
        "num_layers",
        "num_single_layers",
        "pooled_projection_dim",
        "redux_dim",
        "txt_in_features",
        # UNets and VAEs
        "addition_time_embed_dim",
        "block_out_channels",
        "cross_attention_dim",
        "layers_per_block",
        "projection_class_embeddings_input_dim",
        "transformer_layers_per_block",
    }
)
_GROUPS = 32
"""What a UNet or VAE normalises its channels in, where its configuration does not say."""


def shrunk(config: dict[str, Any], factor: int) -> dict[str, Any]:
    """The configuration divided by `factor`, nothing below 1. Raises `ValueError`."""
    if factor not in FACTORS:
        raise ValueError(f"a model is shrunk by one of {', '.join(map(str, FACTORS))}")
    if factor == 1:
        return dict(config)
    divided = {
        name: _divided(value, factor) if name in _WIDTHS_AND_LAYERS else value
        for name, value in config.items()
    }
    if config.get("_class_name") == "UNet2DConditionModel":
        # In a UNet's configuration the name means how many heads there are.
        divided["attention_head_dim"] = _divided(config["attention_head_dim"], factor)
    if "block_out_channels" in config:
        groups = config.get("norm_num_groups", _GROUPS)
        divided["norm_num_groups"] = math.gcd(groups, *divided["block_out_channels"])
    if "caption_projection_dim" in config:  # as wide as the transformer itself
        heads, size = divided["num_attention_heads"], divided["attention_head_dim"]
        divided["caption_projection_dim"] = heads * size
    if "dual_attention_layers" in config:
        layers = range(divided["num_layers"])
        divided["dual_attention_layers"] = [
            layer for layer in config["dual_attention_layers"] if layer in layers
        ]
    return divided


def _divided(value: Any, factor: int) -> Any:
    """A number, or each of a list; never below 1. What is not said, or 0, stays."""
    if isinstance(value, list):
        return [_divided(one, factor) for one in value]
    return max(1, value // factor) if value else value
