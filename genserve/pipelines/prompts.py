"""From prompts to what a network reads: any length, weighted words, trained words.

The brackets are read by `domain.prompt_syntax`; compel encodes the fragments. It is given them as
its own objects, never as text, so that its signs (`word++`, `.blend()`) are ordinary characters.
What it does with them:

- A text beyond the encoder's 75 tokens is cut at the last comma or full stop before, each piece is
  encoded apart, and the pieces stand one behind the other (BREAK cuts where it stands). Shorter
  texts are padded with empty pieces, so that all have one length.
- A weight above 1 carries the words' vectors away from those of an empty text. A weight below 1
  mixes in the same text with the words hidden, which costs one more pass through the encoder.

Trained words (textual inversion) are put between the tokens as they pass: neither the tokenizer
nor the encoder changes, so nothing has to be undone.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from compel import Compel
from compel.embeddings_provider import ReturnedEmbeddingsType, SplitLongTextMode
from compel.prompt_parser import Conjunction, FlattenedPrompt

from genserve.domain.prompt_syntax import Chunk, parse
from genserve.errors import PromptTooComplex

MAX_PASSES = 256
"""How often one encoder may run for one prompt: each piece, once more for each low weight."""

Layer = Callable[[Any, Any], torch.Tensor]
"""From an encoder and its output to the vectors that the network reads."""


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """One of a model's text encoders.

    `layer` picks the vectors; `words` are trained words: name → vectors of shape (n, width).
    `max_tokens` shortens what the tokenizer allows; with `truncate` a longer text is cut off there.
    """

    tokenizer: Any
    model: Any
    layer: Layer
    words: Mapping[str, torch.Tensor] = field(default_factory=dict)
    max_tokens: int | None = None
    truncate: bool = False


def clip_layer(stop: int) -> Layer:
    """The layer that is `stop` layers from the end, with the last one's normalisation.

    1 is the last layer; as A1111 counts ("clip skip"). More than there are is what goes into the
    first one.
    """

    def pick(model: Any, output: Any) -> torch.Tensor:
        if stop <= 1:
            last: torch.Tensor = output.last_hidden_state
            return last
        inner = getattr(model, "text_model", model)  # transformers 5.6 took the wrapper away
        normed: torch.Tensor = inner.final_layer_norm(_hidden(output, stop))
        return normed

    return pick


def hidden_layer(stop: int) -> Layer:
    """The layer that is `stop` layers from the end, as it is: what SDXL and SD3 were trained on."""
    return lambda _, output: _hidden(output, stop)


def last_layer(_: Any, output: Any) -> torch.Tensor:
    """What comes out at the end: T5."""
    last: torch.Tensor = output.last_hidden_state
    return last


def _hidden(output: Any, stop: int) -> torch.Tensor:
    states: Sequence[torch.Tensor] = output.hidden_states  # the first is before the first layer
    return states[-min(stop, len(states))]


def encode(
    prompts: Sequence[str], encoders: Sequence[TextEncoder], device: str
) -> list[torch.Tensor]:
    """Each prompt's vectors, (1, tokens, width), all of one length.

    Several encoders' vectors stand side by side: the width is the sum of theirs. Raises
    `PromptTooComplex`.
    """
    chunks = [parse(prompt) for prompt in prompts]
    columns = [_column(chunks, encoder, device) for encoder in encoders]
    length = max(text.shape[1] for texts, _ in columns for text in texts)
    padded = [[_padded(text, empty, length) for text in texts] for texts, empty in columns]
    return [torch.cat(beside, dim=-1) for beside in zip(*padded, strict=True)]


def pool(prompts: Sequence[str], encoder: TextEncoder, device: str) -> list[torch.Tensor]:
    """Each prompt as one vector, (1, width): of its first piece, as there is only one.

    Weights cannot be told in it, and are left out.
    """
    tokens, model = _Tokens(encoder), _Model(encoder, device)
    outputs = []
    for prompt in prompts:
        plain = " ".join(
            "".join(fragment.text for fragment in chunk) for chunk in parse(prompt)
        ).strip()
        ids = tokens.framed(tokens.ids(plain))
        outputs.append(model.run(torch.tensor([ids], device=device), None)[0])
    return outputs


def words_in(texts: Sequence[str], names: Iterable[str]) -> list[str]:
    """Those names of trained words that the texts use, as they are spelt in `names`."""
    spelt = {name.lower(): name for name in names}
    pattern = _pattern(spelt)
    if pattern is None:
        return []
    used = {match.lower() for text in texts for match in pattern.findall(text)}
    return sorted(spelt[name] for name in used)


def is_whole(prompt: str, encoder: TextEncoder) -> bool:
    """Whether the encoder reads the prompt to its end when it cuts off."""
    tokens = _Tokens(encoder)
    count = sum(len(tokens.ids(part.text)) for chunk in parse(prompt) for part in chunk)
    return count <= tokens.room


def _column(
    prompts: Sequence[tuple[Chunk, ...]], encoder: TextEncoder, device: str
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Each prompt's vectors by one encoder, and an empty piece's."""
    tokens = _Tokens(encoder)
    compel = Compel(
        tokenizer=tokens,
        text_encoder=_Model(encoder, device),
        truncate_long_prompts=encoder.truncate,
        returned_embeddings_type=ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED,
        split_long_text_mode=SplitLongTextMode.PHRASES,
        device=device,
        padding_attention_mask_value=1,
    )
    texts = []
    for chunks in prompts:
        if encoder.truncate:  # there are no pieces that BREAK could part
            chunks = (tuple(part for chunk in chunks for part in chunk),)
        conjunction = _conjunction(chunks, tokens)
        texts.append(compel.build_conditioning_tensor_for_conjunction(conjunction)[0])
    return texts, compel.conditioning_provider.empty_z


def _conjunction(chunks: Sequence[Chunk], tokens: "_Tokens") -> Any:
    """compel's form of a prompt. Raises `PromptTooComplex`."""
    told = [
        [(part.text, part.weight) for part in chunk if tokens.ids(part.text)] for chunk in chunks
    ]
    passes = 0
    for parts in told:
        count = sum(len(tokens.ids(text)) for text, _ in parts)
        low = sum(weight < 1 for _, weight in parts)
        passes += (1 + low) * (1 + count // tokens.room)
    if passes > MAX_PASSES:
        raise PromptTooComplex(passes=passes, limit=MAX_PASSES)
    return Conjunction([FlattenedPrompt(parts or [("", 1.0)]) for parts in told])


def _padded(text: torch.Tensor, empty: torch.Tensor, length: int) -> torch.Tensor:
    missing = (length - text.shape[1]) // empty.shape[1]
    return torch.cat([text, empty.repeat(1, missing, 1).to(text)], dim=1) if missing else text


class _Tokens:
    """A tokenizer as compel wants it, that knows the trained words as well.

    A trained word's vectors have numbers of their own, beyond the vocabulary. What stands for the
    tokenizer's own marks in a prompt (`<|endoftext|>`) is left out: it would end the text.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self._own = encoder.tokenizer
        self.bos_token_id = self._own.bos_token_id
        self.eos_token_id = self._own.eos_token_id
        self.pad_token_id = self._own.pad_token_id
        longest = getattr(encoder.model.config, "max_position_embeddings", None)
        limits = (self._own.model_max_length, longest, encoder.max_tokens)
        self.model_max_length = min(limit for limit in limits if limit is not None)
        self._marks = {self.bos_token_id, self.eos_token_id}
        self._words: dict[str, list[int]] = {}
        first = len(self._own)
        for name, vectors in encoder.words.items():
            self._words[name.lower()] = list(range(first, first + len(vectors)))
            first += len(vectors)
        self._pattern = _pattern(self._words)

    @property
    def room(self) -> int:
        """Tokens of text in one piece."""
        return self.model_max_length - (self.bos_token_id is not None) - 1

    def ids(self, text: str) -> list[int]:
        """The text's tokens, without the marks at its begin and end."""
        if self._pattern is None:
            return self._plain(text)
        ids: list[int] = []
        parts = self._pattern.split(text)
        for index, part in enumerate(parts):  # every second one is a trained word
            ids += self._words[part.lower()] if index % 2 else self._plain(part)
        return ids

    def _plain(self, text: str) -> list[int]:
        if not text.strip():
            return []
        ids: list[int] = self._own(text, add_special_tokens=False, verbose=False)["input_ids"]
        return [token for token in ids if token not in self._marks]

    def framed(self, ids: list[int]) -> list[int]:
        """One piece: the tokens between their marks, cut off and padded to its length."""
        begin = [] if self.bos_token_id is None else [self.bos_token_id]
        framed = [*begin, *ids[: self.room], self.eos_token_id]
        return framed + [self.pad_token_id] * (self.model_max_length - len(framed))

    def __call__(
        self, texts: Sequence[str], truncation: bool, **_: object
    ) -> dict[str, list[list[int]]]:
        """For compel: every text's tokens between their marks."""
        begin = [] if self.bos_token_id is None else [self.bos_token_id]
        room = self.room if truncation else None
        return {"input_ids": [[*begin, *self.ids(t)[:room], self.eos_token_id] for t in texts]}

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """For compel, which looks for the marks of a word's or sentence's end."""
        ends = {numbers[-1] for numbers in self._words.values()}
        known = len(self._own)
        names: list[str] = self._own.convert_ids_to_tokens([min(i, known - 1) for i in ids])
        return [
            name if number < known else "</w>" if number in ends else "#"
            for name, number in zip(names, ids, strict=True)
        ]


def _pattern(words: Mapping[str, object]) -> re.Pattern[str] | None:
    """Finds trained words: `name`, ComfyUI's `embedding:name` and diffusers' `<name>`."""
    if not words:
        return None
    names = "|".join(re.escape(name) for name in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?:\bembedding:|<|(?<![\w-]))({names})(?:>|(?![\w-]))", re.IGNORECASE)


class _Model:
    """A text encoder as compel wants it: its output is the layer that the network reads."""

    def __init__(self, encoder: TextEncoder, device: str) -> None:
        self.device = device
        self.dtype = encoder.model.dtype
        self._encoder = encoder
        self._known = len(encoder.tokenizer)
        words = [vectors for vectors in encoder.words.values() if len(vectors)]
        self._vectors = torch.cat(words).to(device, self.dtype) if words else None

    def __call__(
        self, token_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: object
    ) -> Any:
        """For compel. A mask that hides nothing is none, as in the libraries' own pipelines."""
        hidden = attention_mask is not None and not bool(attention_mask.all())
        output = self.run(token_ids, attention_mask if hidden else None)
        return SimpleNamespace(last_hidden_state=self._encoder.layer(self._encoder.model, output))

    def run(self, token_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> Any:
        """The encoder's whole output."""
        model, trained = self._encoder.model, token_ids >= self._known
        if self._vectors is None or not bool(trained.any()):
            return model(token_ids, attention_mask=attention_mask, output_hidden_states=True)
        vectors = self._vectors[token_ids[trained] - self._known]
        with _put_in(model.get_input_embeddings(), trained, vectors):
            ordinary = token_ids.masked_fill(trained, 0)
            return model(ordinary, attention_mask=attention_mask, output_hidden_states=True)


@contextmanager
def _put_in(layer: Any, where: torch.Tensor, vectors: torch.Tensor) -> Iterator[None]:
    """While it is open, a layer of token vectors answers with these in those places."""

    def replace(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[where] = vectors.to(output)
        return output

    hook = layer.register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()
