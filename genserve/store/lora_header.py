"""What the header of a LoRA file tells: for which models it was made, its kind, rank and words.

The names of the tensors tell most: diffusers' and peft's (`transformer.….lora_A.weight`), those of
kohya's sd-scripts (`lora_unet_….lora_down.weight`), XLabs' and Black Forest Labs'
(`double_blocks.0.img_attn.qkv.lora_A.weight`), LyCORIS's (`….hada_w1_a`, `….lokr_w1`). The size of
the text that cross-attention reads tells the Stable Diffusion families apart (768: SD 1.x with
CLIP ViT-L, 1024: SD 2.x, 2048: SDXL), the width of the blocks SD 3 from FLUX (3072).
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from genserve.domain.lora import LoraKind, LoraSource, UnknownTensor, kind_of, layers
from genserve.file_hashes import FileStamp
from genserve.store.found_files import shown
from genserve.store.safetensors_header import BadWeights, Header

MAX_TRIGGER_WORDS = 5
BASE_BY_TEXT_WIDTH = {768: "sd15", 1024: "sd21", 2048: "sdxl"}
BASE_BY_BLOCK_WIDTH = {3072: "flux", 1536: "sd3", 2432: "sd3"}
"""FLUX.1; SD 3 and 3.5 medium; SD 3.5 large."""
FLUX_BLOCKS = 19
"""FLUX.1's double blocks. Others of its width (Qwen-Image) have more."""
_BY_NAME = (
    # FLUX.1's own names and diffusers'; of those that share them only FLUX has single blocks too.
    (
        "flux",
        re.compile(r"(?:^|_|\.)(?:single_transformer_blocks|single_blocks|double_blocks)[._]"),
    ),
    ("sd3", re.compile(r"(?:^|[._])joint_blocks[._]|^lora_te3_|^text_encoder_3\.")),
)
_SDXL = re.compile(r"^lora_te2_|^text_encoder_2\.")
_DOUBLE_BLOCK = re.compile(
    r"(?:^|(?:transformer|model|unet|lycoris)[._])transformer_blocks[._](\d{1,4})[._](?:attn|ff|norm1)"
)
_CROSS_ATTENTION = re.compile(r"attn2[._](?:processor[._])?to_[kv]$")
_BASES_STATED = (
    ("flux", "flux"),
    ("sd3", "sd3"),
    ("stable-diffusion-3", "sd3"),
    ("sdxl", "sdxl"),
    ("stable-diffusion-xl", "sdxl"),
    ("sd_v2", "sd21"),
    ("stable-diffusion-v2", "sd21"),
    ("sd_v1", "sd15"),
    ("sd_1.5", "sd15"),
    ("stable-diffusion-v1", "sd15"),
)


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A LoRA file. `problem`: why it cannot be used; the rest is what its header says, if it does.

    `base` is the family of models that it was made for, None when nobody can tell; `rank` the width
    of its factors, None where they are whole; `source` is set when it can be used. `stamp` is the
    file's when it was looked at, `file_name` its name in the folder.
    """

    name: str
    size_bytes: int
    base: str | None = None
    kind: LoraKind | None = None
    rank: int | None = None
    trigger_words: tuple[str, ...] = ()
    source: LoraSource | None = None
    problem: str | None = None
    file_name: str = ""
    stamp: FileStamp | None = None


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer's kind and the shapes of its factors."""

    kind: LoraKind
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def rank(self) -> int | None:
        """The width of the factors; None where there are none."""
        for factor, axis in (("down", 0), ("hada_w1_b", 0), ("lokr_w2_b", 0), ("lokr_w1_b", 0)):
            if factor in self.shapes:
                return self.shapes[factor][axis] if self.shapes[factor] else None
        return None

    @property
    def in_width(self) -> int | None:
        """How wide what the layer reads is."""
        one, two = self._width("lokr_w1"), self._width("lokr_w2")
        if one is not None and two is not None:
            return one * two
        return self._width("down") or self._width("hada_w1")

    def _width(self, factor: str) -> int | None:
        shape = self.shapes.get(factor) or self.shapes.get(f"{factor}_b") or ()
        return shape[1] if len(shape) > 1 else None


def describe_lora(name: str, header: Header) -> LoraFile:
    """The LoRA with this header. Raises `BadWeights` when it is something else."""
    try:
        found = _layers(header)
    except UnknownTensor as unknown:
        if not _has_factors(header):
            raise BadWeights("is not a LoRA; put models into the models folder") from None
        raise BadWeights(f"cannot be used: {unknown}") from None
    if not found:
        raise BadWeights("is not a LoRA; put models into the models folder")
    ranks = Counter(layer.rank for layer in found.values() if layer.rank is not None)
    kinds = Counter(layer.kind for layer in found.values())
    return LoraFile(
        name=name,
        size_bytes=header.size_bytes,
        base=_base(found, header.metadata),
        kind=kinds.most_common(1)[0][0],
        rank=ranks.most_common(1)[0][0] if ranks else None,
        trigger_words=_trigger_words(header.metadata),
    )


def _layers(header: Header) -> dict[str, _Layer]:
    found = {}
    for layer, factors in layers(header.shapes).items():
        kind = kind_of(factors)
        if kind is not None:
            shapes = {factor: header.shapes[tensor] for factor, tensor in factors.items()}
            found[layer] = _Layer(kind, shapes)
    return found


def _has_factors(header: Header) -> bool:
    words = ("lora", "hada_", "lokr_")
    return any(word in tensor for tensor in header.shapes for word in words)


def _base(found: Mapping[str, _Layer], metadata: Mapping[str, str]) -> str | None:
    """The family by the layers' names and shapes, or else by what the file says of itself."""
    for base, pattern in _BY_NAME:
        if any(pattern.search(layer) for layer in found):
            return base
    by_shape = next(_by_shape(found), None)
    if by_shape is not None:
        return by_shape
    if any(_SDXL.search(layer) for layer in found):
        return "sdxl"
    stated = " ".join(
        metadata.get(key, "").lower() for key in ("ss_base_model_version", "modelspec.architecture")
    )
    return next((base for part, base in _BASES_STATED if part in stated), None)


def _by_shape(found: Mapping[str, _Layer]) -> Iterator[str]:
    """What the width of blocks and of cross-attention's text says, layer by layer."""
    blocks = [int(match[1]) for layer in found if (match := _DOUBLE_BLOCK.search(layer))]
    for name, layer in found.items():
        width = layer.in_width or 0
        if _CROSS_ATTENTION.search(name) and width in BASE_BY_TEXT_WIDTH:
            yield BASE_BY_TEXT_WIDTH[width]
        if _DOUBLE_BLOCK.search(name) and width in BASE_BY_BLOCK_WIDTH:
            base = BASE_BY_BLOCK_WIDTH[width]
            if base != "flux" or max(blocks) < FLUX_BLOCKS:
                yield base


def _trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The words that the author gives, or else the commonest tags of what it was trained on."""
    for key in ("modelspec.trigger_phrase", "trigger_words", "ss_trigger_words"):
        words = [word.strip() for word in metadata.get(key, "").split(",") if word.strip()]
        if words:
            return tuple(words[:MAX_TRIGGER_WORDS])
    try:
        by_folder = json.loads(metadata.get("ss_tag_frequency", "{}"))
        tags: Counter[str] = Counter()
        for frequency in by_folder.values():
            tags.update({str(tag).strip(): int(count) for tag, count in frequency.items()})
    except (ValueError, OverflowError, TypeError, AttributeError, RecursionError):
        return ()
    return tuple(shown(tag) for tag, _ in tags.most_common(MAX_TRIGGER_WORDS) if tag)
