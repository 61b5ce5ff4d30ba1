"""Saves tiny models as their authors lay out checkpoints: one file, other names, joined tensors.

Written from the authors' published code (CompVis/latent-diffusion, Stability-AI/generative-models,
Stability-AI/sd3-ref, openai/CLIP), so that it says the opposite of what a loader must do.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]

_UNET_ENDS = (
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
)
_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
_VAE_ATTENTION = (
    ("group_norm", "norm"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "proj_out"),
)


def save_checkpoint(file: Path, parts: Mapping[str, Any]) -> None:
    """Write the networks of a tiny sd15, sdxl or sd3 into one file."""
    tensors: Tensors = {}
    if "unet" in parts:
        tensors |= _prefixed("model.diffusion_model.", unet_tensors(parts["unet"]))
    if "transformer" in parts:
        tensors |= _prefixed("model.diffusion_model.", _sd3(parts["transformer"]))
    tensors |= _prefixed("first_stage_model.", vae_tensors(parts["vae"]))
    for prefix, encoder, opened in _encoders(parts):
        tensors |= _prefixed(prefix, _open_clip(encoder) if opened else _clip(encoder))
    tensors.pop("text_encoders.clip_l.transformer.text_projection.weight", None)  # it is one
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def _encoders(parts: Mapping[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    """Where each text encoder lies, and whether it is in OpenCLIP's layout."""
    if "transformer" in parts:
        names = {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}
        for name, place in names.items():
            if parts.get(name) is not None:
                yield f"text_encoders.{place}.transformer.", parts[name], False
    elif "text_encoder_2" in parts:
        yield "conditioner.embedders.0.transformer.", parts["text_encoder"], False
        yield "conditioner.embedders.1.model.", parts["text_encoder_2"], True
    else:
        yield "cond_stage_model.transformer.", parts["text_encoder"], False


def _prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _replaced(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for ours, theirs in pairs:
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    return name


def unet_tensors(unet: Any) -> Tensors:
    """A UNet's tensors as ldm names them."""
    per_block = unet.config.layers_per_block
    named = {_unet_name(name, per_block): tensor for name, tensor in unet.state_dict().items()}
    tensors = {}
    for name, tensor in named.items():  # an up-sampler stands behind the attention, if there is one
        attention = name.split(".UP.")[0] + ".1."
        place = 2 if any(other.startswith(attention) for other in named) else 1
        tensors[name.replace(".UP.", f".{place}.")] = tensor
    return tensors


def _unet_name(name: str, per_block: int) -> str:
    """ldm numbers all layers in one row: resnets with their attentions, then the down-sampler."""
    match = re.fullmatch(r"(down|up|mid)_blocks?\.?(\d*)\.(\w+)\.(\d+)\.(.*)", name)
    if match is None:
        return _replaced(name, _UNET_ENDS)
    where, block, kind, layer, rest = match.groups()
    if kind == "resnets":
        rest = _replaced(rest, _RESNET)
    if where == "mid":
        number = 1 if kind == "attentions" else 2 * int(layer)
        return f"middle_block.{number}.{rest}"
    first = int(block) * (per_block + 1)
    if where == "down":
        if kind == "downsamplers":
            return f"input_blocks.{first + per_block + 1}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{first + int(layer) + 1}.{int(kind == 'attentions')}.{rest}"
    if kind == "upsamplers":
        return f"output_blocks.{first + per_block}.UP.{rest}"
    return f"output_blocks.{first + int(layer)}.{int(kind == 'attentions')}.{rest}"


def vae_tensors(vae: Any) -> Tensors:
    """A VAE's tensors as ldm names them; its attention's matrices are 1 x 1 convolutions."""
    levels = len(vae.config.block_out_channels)
    tensors = {}
    for name, tensor in vae.state_dict().items():
        new = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = re.sub(
            r"(down|up)_blocks\.(\d+)\.resnets\.", lambda m: _level(m, levels) + "block.", new
        )
        new = re.sub(
            r"(down|up)_blocks\.(\d+)\.(down|up)samplers\.0\.",
            lambda m: f"{_level(m, levels)}{m[3]}sample.",
            new,
        )
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        if "mid_block.attentions.0." in new:
            coder, _, rest = new.partition(".mid_block.attentions.0.")
            new = f"{coder}.mid.attn_1.{_replaced(rest, _VAE_ATTENTION)}"
            tensor = tensor[:, :, None, None] if tensor.dim() == 2 else tensor
        tensors[new] = tensor
    return tensors


def _level(match: re.Match[str], levels: int) -> str:
    """ldm counts the decoder's levels from the picture's side."""
    number = int(match[2]) if match[1] == "down" else levels - 1 - int(match[2])
    return f"{match[1]}.{number}."


def _clip(encoder: Any) -> Tensors:
    """As transformers names a whole CLIP; T5 is what it is."""
    if not hasattr(encoder.config, "num_hidden_layers") or encoder.config.model_type == "t5":
        return {k: v for k, v in encoder.state_dict().items() if "embed_tokens" not in k}
    return {
        name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}": value
        for name, value in encoder.state_dict().items()
    }


def _open_clip(encoder: Any) -> Tensors:
    """OpenCLIP joins the three projections of an attention, and turns the last one around."""
    state = {k.removeprefix("text_model."): v for k, v in encoder.state_dict().items()}
    tensors = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T,
    }
    for layer in range(encoder.config.num_hidden_layers):
        ours, theirs = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for end in ("weight", "bias"):
            joined = [state[f"{ours}self_attn.{one}_proj.{end}"] for one in "qkv"]
            tensors[f"{theirs}attn.in_proj_{end}"] = torch.cat(joined)
            names = {
                "self_attn.out_proj": "attn.out_proj",
                "layer_norm1": "ln_1",
                "layer_norm2": "ln_2",
                "mlp.fc1": "mlp.c_fc",
                "mlp.fc2": "mlp.c_proj",
            }
            for one, other in names.items():
                tensors[f"{theirs}{other}.{end}"] = state[f"{ours}{one}.{end}"]
    return tensors


_SD3_ENDS = (
    ("pos_embed.pos_embed", "pos_embed"),
    ("pos_embed.proj", "x_embedder.proj"),
    ("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"),
    ("time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
    ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"),
    ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
    ("proj_out", "final_layer.linear"),
    ("norm_out.linear", "final_layer.adaLN_modulation.1"),
)
_SD3_BLOCK = (
    ("attn.norm_q", "x_block.attn.ln_q"),
    ("attn.norm_k", "x_block.attn.ln_k"),
    ("attn.norm_added_q", "context_block.attn.ln_q"),
    ("attn.norm_added_k", "context_block.attn.ln_k"),
    ("attn.to_out.0", "x_block.attn.proj"),
    ("attn.to_add_out", "context_block.attn.proj"),
    ("attn2.norm_q", "x_block.attn2.ln_q"),
    ("attn2.norm_k", "x_block.attn2.ln_k"),
    ("attn2.to_out.0", "x_block.attn2.proj"),
    ("norm1.linear", "x_block.adaLN_modulation.1"),
    ("norm1_context.linear", "context_block.adaLN_modulation.1"),
    ("ff.net.0.proj", "x_block.mlp.fc1"),
    ("ff.net.2", "x_block.mlp.fc2"),
    ("ff_context.net.0.proj", "context_block.mlp.fc1"),
    ("ff_context.net.2", "context_block.mlp.fc2"),
)
_SD3_JOINED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}


def _sd3(transformer: Any) -> Tensors:
    state = transformer.state_dict()
    last = f"joint_blocks.{transformer.config.num_layers - 1}.context_block.adaLN_modulation.1"
    tensors = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"transformer_blocks\.(\d+)\.(.*)", name)
        if match is None:
            new = _replaced(name, _SD3_ENDS)
        elif any(match[2].startswith(f"{own}.") for own in sum(_SD3_JOINED.values(), ())):
            continue
        else:
            new = f"joint_blocks.{match[1]}.{_replaced(match[2], _SD3_BLOCK)}"
        if new.startswith((last, "final_layer.adaLN")):  # shift comes before scale there
            tensor = torch.cat(tensor.chunk(2)[::-1])
        tensors[new] = tensor
    for block in range(transformer.config.num_layers):
        for theirs, ours in _SD3_JOINED.items():
            for end in ("weight", "bias"):
                names = [f"transformer_blocks.{block}.{one}.{end}" for one in ours]
                if names[0] in state:
                    joined = torch.cat([state[name] for name in names])
                    tensors[f"joint_blocks.{block}.{theirs}.{end}"] = joined
    return tensors
