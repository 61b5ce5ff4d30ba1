"""Trained words (textual inversion): small files whose name in a prompt stands for learnt vectors.

Three forms are read, of safetensors alone: A1111's for 1.5 (`emb_params`), A1111's for XL (`clip_l`
and `clip_g`), and diffusers' (one tensor, named as it pleases). Each is n vectors for one word.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from genserve.errors import EmbeddingBroken
from genserve.pipelines.prompts import words_in

log = logging.getLogger("child.embeddings")


def trained_words(
    texts: Sequence[str], files: Mapping[str, Path], widths: Mapping[str, int]
) -> dict[str, dict[str, torch.Tensor]]:
    """For each text encoder, the vectors of the trained words that the texts name.

    `files` are the embeddings by name; `widths` the text encoders' widths by the names that files
    give them (clip_l, clip_g). An embedding that does not fit each encoder is for other models: its
    name is an ordinary word then. Raises `EmbeddingBroken`.
    """
    found: dict[str, dict[str, torch.Tensor]] = {encoder: {} for encoder in widths}
    for name in words_in(texts, files):
        vectors = _fitting(_read(name, files[name]), widths)
        if vectors is None:
            log.info("an embedding does not fit this model", extra={"embedding": name})
            continue
        for encoder, tensor in vectors.items():
            found[encoder][name] = tensor
    return found


def _read(name: str, file: Path) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = load_file(file)
    except FileNotFoundError:
        raise EmbeddingBroken(name=name, reason=f"{file.name} is gone") from None
    except (OSError, SafetensorError):
        raise EmbeddingBroken(name=name, reason=f"{file.name} cannot be read") from None
    return tensors


def _fitting(
    tensors: Mapping[str, torch.Tensor], widths: Mapping[str, int]
) -> dict[str, torch.Tensor] | None:
    """Vectors of shape (n, width) for every encoder, None when there are not.

    A file that names encoders must be for exactly these: one for XL fits 1.5's encoder as well, but
    was trained for both of XL's.
    """
    named = tensors.keys() & {"clip_l", "clip_g"}
    if named and named != widths.keys():
        return None
    fitting = {}
    for encoder, width in widths.items():
        alone = next(iter(tensors.values())) if len(tensors) == len(widths) == 1 else None
        tensor = tensors.get(encoder, alone)
        if tensor is None or tensor.shape[-1] != width or tensor.dim() > 2:
            return None
        fitting[encoder] = tensor.reshape(-1, width)
    return fitting
