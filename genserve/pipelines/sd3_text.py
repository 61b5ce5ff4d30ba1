"""What Stable Diffusion 3 reads: two CLIP encoders and T5, any of which may be missing.

The transformer takes one row of vectors: CLIP's, side by side and filled up with zeros to T5's
width, then T5's. What an encoder that is missing would have said is zeros, as in training, where
each was left out now and then.
"""

from collections.abc import Sequence
from typing import Any

import torch

from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest
from genserve.pipelines import prompts
from genserve.pipelines.embeddings import trained_words
from genserve.pipelines.sd_parts import SdParts

_CLIP_TOKENS = 77
_OWN_LAYER = 2
"""SD3 was trained on the last layer but one of both CLIP encoders."""
_T5_TOKENS, _MOST_T5_TOKENS = 256, 512
"""What SD3 was trained on, and what it still reads: longer prompts are given the second."""

_CLIPS = {"clip_l": ("tokenizer", "text_encoder"), "clip_g": ("tokenizer_2", "text_encoder_2")}


def read(
    parts: SdParts, spec: ModelSpec, request: GenerationRequest, device: str
) -> dict[str, Any]:
    """Both prompts, as the pipelines take them. Raises `PromptTooComplex`, `EmbeddingBroken`.

    Long prompts: CLIP reads piece by piece, T5 as far as it reaches. Weights act in all three, but
    not in CLIP's pooled vectors. A clip_skip of 1 is read as 2.
    """
    texts = (request.prompt, request.negative_prompt)
    clip, pooled = _by_clip(parts, spec, request, texts, device)
    t5 = _by_t5(parts, texts, device)
    width = parts["transformer"].config.joint_attention_dim
    wide = [torch.nn.functional.pad(text, (0, width - text.shape[-1])) for text in clip]
    wanted, unwanted = (
        torch.cat([left, right.to(left)], dim=1) for left, right in zip(wide, t5, strict=True)
    )
    return {
        "prompt_embeds": wanted,
        "negative_prompt_embeds": unwanted,
        "pooled_prompt_embeds": pooled[0],
        "negative_pooled_prompt_embeds": pooled[1],
    }


def _by_clip(
    parts: SdParts,
    spec: ModelSpec,
    request: GenerationRequest,
    texts: Sequence[str],
    device: str,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The vectors of both CLIP encoders side by side, and their pooled vectors."""
    present = {key: names for key, names in _CLIPS.items() if parts[names[1]] is not None}
    widths = {key: parts[names[1]].config.hidden_size for key, names in present.items()}
    words = trained_words(texts, spec.embeddings, widths) if widths else {}
    layer = prompts.hidden_layer(max(request.clip_skip or 1, _OWN_LAYER))
    encoders = {
        key: prompts.TextEncoder(parts[tokenizer], parts[network], layer, words[key])
        for key, (tokenizer, network) in present.items()
    }
    dtype = parts["transformer"].dtype
    total = parts["transformer"].config.pooled_projection_dim
    vectors = (
        prompts.encode(texts, [*encoders.values()], device)
        if encoders
        else [torch.zeros(1, _CLIP_TOKENS, 0, device=device, dtype=dtype) for _ in texts]
    )
    pooled = [
        torch.cat(beside, dim=-1)
        for beside in zip(
            *(prompts.pool(texts, encoder, device) for encoder in encoders.values()), strict=True
        )
    ] or [torch.zeros(1, 0, device=device, dtype=dtype) for _ in texts]
    # Zeros for CLIP-L stand before what CLIP-G says; those for CLIP-G, behind CLIP-L's, come by
    # filling up.
    before = total - pooled[0].shape[-1] if "clip_l" not in present else 0
    after = total - pooled[0].shape[-1] - before
    pad = torch.nn.functional.pad
    return (
        [pad(text, (before if present else 0, 0)) for text in vectors],
        [pad(text, (before, after)) for text in pooled],
    )


def _by_t5(parts: SdParts, texts: Sequence[str], device: str) -> list[torch.Tensor]:
    network, transformer = parts["text_encoder_3"], parts["transformer"]
    if network is None:
        shape = (1, _T5_TOKENS, transformer.config.joint_attention_dim)
        return [torch.zeros(shape, device=device, dtype=transformer.dtype) for _ in texts]

    def encoder(tokens: int) -> prompts.TextEncoder:
        return prompts.TextEncoder(
            parts["tokenizer_3"], network, prompts.last_layer, max_tokens=tokens, truncate=True
        )

    short = all(prompts.is_whole(text, encoder(_T5_TOKENS)) for text in texts)
    return prompts.encode(texts, [encoder(_T5_TOKENS if short else _MOST_T5_TOKENS)], device)
