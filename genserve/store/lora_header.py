"""What the header of a LoRA file tells: for which models it was made, its rank, its words.

Three spellings of tensor names are in use: diffusers (`transformer.….lora_A.weight`), kohya's
sd-scripts (`lora_unet_….lora_down.weight`) and plain model names (`diffusion_model.…`). The size of
the text that cross-attention reads tells the Stable Diffusion families apart (768: SD 1.x with
CLIP ViT-L, 1024: SD 2.x, 2048: SDXL).
"""

import json
from collections import Counter
from dataclasses import dataclass

from genserve.store.safetensors_header import BadWeights, Header

DOWN = (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight")
FLUX_KEYS = ("single_transformer_blocks", "double_blocks", "single_blocks", "add_q_proj")
SDXL_KEYS = ("lora_te2_", "text_encoder_2.")
BASE_BY_TEXT_WIDTH = {768: "sd15", 1024: "sd21", 2048: "sdxl"}
BASES_BY_NAME = (
    ("flux", "flux"),
    ("sdxl", "sdxl"),
    ("stable-diffusion-xl", "sdxl"),
    ("sd_v2", "sd21"),
    ("stable-diffusion-v2", "sd21"),
    ("sd_v1", "sd15"),
    ("sd_1.5", "sd15"),
    ("stable-diffusion-v1", "sd15"),
)
MAX_TRIGGER_WORDS = 5


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A LoRA file. `problem`: why it cannot be used; the rest is what its header says, if it does.

    `base` is the family of models that it was made for; `rank` the width of its matrices.
    """

    name: str
    size_bytes: int
    sha256: str | None = None
    base: str | None = None
    rank: int | None = None
    trigger_words: tuple[str, ...] = ()
    problem: str | None = None


def describe_lora(name: str, header: Header) -> LoraFile:
    """The LoRA with this header. Raises `BadWeights` when it is something else."""
    downs = {
        tensor: shape
        for tensor, shape in header.shapes.items()
        if tensor.endswith(DOWN) and len(shape) >= 2
    }
    if not downs:
        raise BadWeights("is not a LoRA; put models into the models folder")
    ranks = Counter(shape[0] for shape in downs.values())
    return LoraFile(
        name=name,
        size_bytes=header.size_bytes,
        sha256=_stated_sha256(header.metadata),
        base=_base(downs, header.metadata),
        rank=ranks.most_common(1)[0][0],
        trigger_words=_trigger_words(header.metadata),
    )


def _base(downs: dict[str, tuple[int, ...]], metadata: dict[str, str]) -> str | None:
    """The family by the tensors' names and shapes, or else by what the file says of itself."""
    if any(part in tensor for tensor in downs for part in FLUX_KEYS):
        return "flux"
    if any(part in tensor for tensor in downs for part in SDXL_KEYS):
        return "sdxl"
    for tensor, shape in downs.items():
        if "attn2" in tensor and "to_k" in tensor and shape[1] in BASE_BY_TEXT_WIDTH:
            return BASE_BY_TEXT_WIDTH[shape[1]]
    stated = " ".join(
        metadata.get(key, "").lower() for key in ("ss_base_model_version", "modelspec.architecture")
    )
    return next((base for part, base in BASES_BY_NAME if part in stated), None)


def _stated_sha256(metadata: dict[str, str]) -> str | None:
    stated = metadata.get("modelspec.hash_sha256", "").removeprefix("0x").lower()
    return stated if len(stated) == 64 else None


def _trigger_words(metadata: dict[str, str]) -> tuple[str, ...]:
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
    except (ValueError, TypeError, AttributeError, RecursionError):
        return ()
    return tuple(tag for tag, _ in tags.most_common(MAX_TRIGGER_WORDS) if tag)
