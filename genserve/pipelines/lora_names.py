"""Which of a network's layers a LoRA file means: the names in use, for the networks we draw with.

Files name layers as diffusers and transformers do, or as the model's authors did, with dots or with
underscores (kohya, LyCORIS). So layers are looked up by their path with underscores only, in a
table made from the network itself: what is not in it does not exist in this model, and nothing of
the network's size stands here. Where the authors keep several layers in one matrix (`qkv`), the
file's change is cut into as many pieces.

Sources of the authors' names: for FLUX.1 and SD 3 what diffusers' single-file loader reads
(loaders/single_file_utils.py), for XLabs diffusers' converter (loaders/lora_conversion_utils.py),
for Stable Diffusion's UNet CompVis' and Stability AI's openaimodel.py.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

MAIN = ("transformer", "unet")
"""What diffusers calls the network that removes noise."""
_PARTS = (
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("text_encoders.t5xxl.transformer.", "t5"),
    ("text_encoder_3.", "text_encoder_3"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"),
    ("lora_te3_", "t5"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te1_", "text_encoder"),
    ("lora_te_", "text_encoder"),
    ("model.diffusion_model.", "main"),
    ("diffusion_model.", "main"),
    ("lora_transformer_", "main"),
    ("lora_unet_", "main"),
    ("lycoris_", "main"),
    ("transformer.", "main"),
    ("unet.", "main"),
)
"""How a layer's name begins, and whose it is; without any of these it is the main network's."""
_TEXT_ENCODERS = ("text_encoder_3", "text_encoder_2", "text_encoder")


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a file's change: `rows` from `first_row` on go to the layer's from `into` on."""

    path: str
    rows: int
    first_row: int = 0
    into: int = 0


Table = dict[str, tuple[Piece, ...]]
"""Layers by every name that files have for them, with underscores."""
Layers = Mapping[str, Any]
Names = Iterator[tuple[str, tuple[str, ...], bool]]


def part_of(layer: str, parts: Mapping[str, Any]) -> tuple[str, str]:
    """The part that a file's layer belongs to, by diffusers' name, and the rest of its name.

    The part need not be one of `parts`: then the model does not have it.
    """
    layer = layer.removeprefix("base_model.model.")
    for prefix, part in _PARTS:
        if layer.startswith(prefix):
            return _named(part, parts), _key(layer.removeprefix(prefix))
    return _named("main", parts), _key(layer)


def _named(part: str, parts: Mapping[str, Any]) -> str:
    if part == "main":
        return next((name for name in MAIN if name in parts), MAIN[0])
    if part == "t5":  # the third text encoder of SD 3, the second of FLUX.1
        found = (name for name in _TEXT_ENCODERS if "T5" in type(parts.get(name)).__name__)
        return next(found, _TEXT_ENCODERS[0])
    return part


def _key(path: str) -> str:
    """A path as tables have it. Diffusers once kept LoRAs in attention processors."""
    return path.replace(".", "_").replace("_processor_to_", "_to_")


def table_of(network: Any) -> Table:
    """Every name of every layer of a network that has a weight."""
    layers = layers_of(network)
    table: Table = {}
    for name, paths, swapped in authors_names(network, layers):
        found = [path for path in paths if path in layers]
        if len(found) == len(paths):
            table[_key(name)] = _pieces(found, layers, swapped=swapped)
    for path in layers:
        whole = _pieces([path], layers, swapped=False)
        for name in _own_names(path):
            table[_key(name)] = whole
    return table


def layers_of(network: Any) -> dict[str, Any]:
    """The layers that have a weight, by their path."""
    return {
        path: module
        for path, module in network.named_modules()
        if path and isinstance(getattr(module, "weight", None), Tensor)
    }


def authors_names(network: Any, layers: Layers) -> Names:
    """The names of the network's authors: name, the layers it covers, whether halves are swapped.

    Also names of layers that this network does not have.
    """
    names = _AUTHORS_NAMES.get(type(network).__name__)
    return iter(()) if names is None else names(layers)


def _own_names(path: str) -> Iterator[str]:
    """What diffusers and transformers, old and new, call their own layer."""
    yield path
    if path.endswith(".to_out.0"):
        yield path.removesuffix(".0")
    with_wrapper = path if path.startswith("text_model.") else f"text_model.{path}"
    yield with_wrapper
    yield with_wrapper.removeprefix("text_model.")
    match = re.fullmatch(r"(?:text_model\.)?(.*self_attn)\.(q|k|v|out)_proj", path)
    if match:
        yield f"text_model.{match[1]}.to_{match[2]}"


def _pieces(paths: list[str], layers: Mapping[str, Any], *, swapped: bool) -> tuple[Piece, ...]:
    """The layers one below the other, as their matrix has them; `swapped`: its halves are."""
    if swapped:
        half = rows_of(layers[paths[0]]) // 2
        return (Piece(paths[0], half, 0, half), Piece(paths[0], half, half, 0))
    pieces, first = [], 0
    for path in paths:
        rows = rows_of(layers[path])
        pieces.append(Piece(path, rows, first))
        first += rows
    return tuple(pieces)


def rows_of(layer: Any) -> int:
    """The height of a layer's matrix; of a quantised one, too, whose weight is packed."""
    for name in ("out_features", "out_channels"):
        if hasattr(layer, name):
            return int(getattr(layer, name))
    return int(layer.weight.shape[0])


# The authors' names


def _numbers(layers: Layers, container: str) -> list[int]:
    found = {match[1] for path in layers if (match := re.match(rf"{container}\.(\d+)\.", path))}
    return sorted(map(int, found))


def _attention(own: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{own}.attn.{name}" for name in names)


def _flux_names(layers: Layers) -> Names:
    for n in _numbers(layers, "transformer_blocks"):
        own, theirs = f"transformer_blocks.{n}", f"double_blocks.{n}"
        qkv = _attention(own, "to_q", "to_k", "to_v")
        added = _attention(own, "add_q_proj", "add_k_proj", "add_v_proj")
        out, added_out = f"{own}.attn.to_out.0", f"{own}.attn.to_add_out"
        for stream, wide, end, mlp, norm in (
            ("img", qkv, out, "ff", "norm1"),
            ("txt", added, added_out, "ff_context", "norm1_context"),
        ):
            yield f"{theirs}.{stream}_attn.qkv", wide, False
            yield f"{theirs}.{stream}_attn.proj", (end,), False
            yield f"{theirs}.{stream}_mlp.0", (f"{own}.{mlp}.net.0.proj",), False
            yield f"{theirs}.{stream}_mlp.2", (f"{own}.{mlp}.net.2",), False
            yield f"{theirs}.{stream}_mod.lin", (f"{own}.{norm}.linear",), False
        yield f"{theirs}.processor.qkv_lora1", qkv, False
        yield f"{theirs}.processor.qkv_lora2", added, False
        yield f"{theirs}.processor.proj_lora1", (out,), False
        yield f"{theirs}.processor.proj_lora2", (added_out,), False
    for n in _numbers(layers, "single_transformer_blocks"):
        own, theirs = f"single_transformer_blocks.{n}", f"single_blocks.{n}"
        qkv = _attention(own, "to_q", "to_k", "to_v")
        yield f"{theirs}.linear1", (*qkv, f"{own}.proj_mlp"), False
        yield f"{theirs}.linear2", (f"{own}.proj_out",), False
        yield f"{theirs}.modulation.lin", (f"{own}.norm.linear",), False
        yield f"{theirs}.processor.qkv", qkv, False
        yield f"{theirs}.processor.proj", (f"{own}.proj_out",), False
    yield "img_in", ("x_embedder",), False
    yield "txt_in", ("context_embedder",), False
    for theirs, own in (("time", "timestep"), ("vector", "text"), ("guidance", "guidance")):
        for end, number in (("in_layer", 1), ("out_layer", 2)):
            yield f"{theirs}_in.{end}", (f"time_text_embed.{own}_embedder.linear_{number}",), False
    yield from _last_layer()


def _last_layer() -> Names:
    yield "final_layer.linear", ("proj_out",), False
    yield "final_layer.adaLN_modulation.1", ("norm_out.linear",), True


def _sd3_names(layers: Layers) -> Names:
    numbers = _numbers(layers, "transformer_blocks")
    for n in numbers:
        own, theirs = f"transformer_blocks.{n}", f"joint_blocks.{n}"
        image, text = f"{theirs}.x_block", f"{theirs}.context_block"
        yield f"{image}.attn.qkv", _attention(own, "to_q", "to_k", "to_v"), False
        added = _attention(own, "add_q_proj", "add_k_proj", "add_v_proj")
        yield f"{text}.attn.qkv", added, False
        yield f"{image}.attn.proj", (f"{own}.attn.to_out.0",), False
        yield f"{text}.attn.proj", (f"{own}.attn.to_add_out",), False
        second = tuple(f"{own}.attn2.{name}" for name in ("to_q", "to_k", "to_v"))
        yield f"{image}.attn2.qkv", second, False
        yield f"{image}.attn2.proj", (f"{own}.attn2.to_out.0",), False
        for block, mlp in ((image, "ff"), (text, "ff_context")):
            yield f"{block}.mlp.fc1", (f"{own}.{mlp}.net.0.proj",), False
            yield f"{block}.mlp.fc2", (f"{own}.{mlp}.net.2",), False
        yield f"{image}.adaLN_modulation.1", (f"{own}.norm1.linear",), False
        last = n == numbers[-1]  # there the text's normalisation is of the kind with halves
        yield f"{text}.adaLN_modulation.1", (f"{own}.norm1_context.linear",), last
    yield "x_embedder.proj", ("pos_embed.proj",), False
    for theirs, own in (("t", "timestep"), ("y", "text")):
        for end, number in ((0, 1), (2, 2)):
            linear = f"time_text_embed.{own}_embedder.linear_{number}"
            yield f"{theirs}_embedder.mlp.{end}", (linear,), False
    yield from _last_layer()


_IN_RESNET = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)


def _unet_names(layers: Layers) -> Names:
    """CompVis counts a UNet's blocks through; each level ends in its change of size."""
    in_resnet = {own: theirs for theirs, own in _IN_RESNET}
    for theirs, own in _unet_blocks(layers):
        if own in layers:
            yield theirs, (own,), False
        for path in layers:
            if path.startswith(f"{own}."):
                rest = path.removeprefix(f"{own}.")
                yield f"{theirs}.{in_resnet.get(rest, rest)}", (path,), False
    yield "input_blocks.0.0", ("conv_in",), False
    yield "out.0", ("conv_norm_out",), False
    yield "out.2", ("conv_out",), False
    for theirs, own in (("time_embed", "time_embedding"), ("label_emb.0", "add_embedding")):
        yield f"{theirs}.0", (f"{own}.linear_1",), False
        yield f"{theirs}.2", (f"{own}.linear_2",), False


def _unet_blocks(layers: Layers) -> Iterator[tuple[str, str]]:
    """The authors' name of each resnet, attention and change of size, and diffusers' name."""
    for theirs, own, size in (
        ("input_blocks", "down_blocks", "downsamplers.0.conv"),
        ("output_blocks", "up_blocks", "upsamplers.0.conv"),
    ):
        count = 1 if own == "down_blocks" else 0
        for level in _numbers(layers, own):
            block = f"{own}.{level}"
            attentions = _numbers(layers, rf"{own}\.{level}\.attentions")
            for n in _numbers(layers, rf"{own}\.{level}\.resnets"):
                yield f"{theirs}.{count}.0", f"{block}.resnets.{n}"
                if n in attentions:
                    yield f"{theirs}.{count}.1", f"{block}.attentions.{n}"
                count += 1
            if f"{block}.{size}" not in layers:
                continue
            if own == "down_blocks":
                yield f"{theirs}.{count}.0.op", f"{block}.downsamplers.0.conv"
                count += 1
            else:  # behind the last resnet, and its attention where there is one
                place = 2 if attentions else 1
                yield f"{theirs}.{count - 1}.{place}.conv", f"{block}.upsamplers.0.conv"
    yield "middle_block.0", "mid_block.resnets.0"
    yield "middle_block.1", "mid_block.attentions.0"
    yield "middle_block.2", "mid_block.resnets.1"


_AUTHORS_NAMES: dict[str, Callable[[Layers], Names]] = {
    "FluxTransformer2DModel": _flux_names,
    "SD3Transformer2DModel": _sd3_names,
    "UNet2DConditionModel": _unet_names,
}
