"""Prompts of any length, with weights and trained words, through compel and tiny text encoders."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from genserve.errors import PromptTooComplex
from genserve.pipelines import prompts
from genserve.pipelines.prompts import TextEncoder, clip_layer, encode, hidden_layer, last_layer
from tests.pipelines import tiny_diffusion as tiny

WORDS = {"easyNeg": torch.randn(3, tiny.WIDTH, generator=torch.Generator().manual_seed(1))}


@pytest.fixture(scope="module", autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def clip() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(tiny.clip_tokenizer(), tiny.clip(CLIPTextModel).eval(), clip_layer(1))


@pytest.fixture(scope="module")
def clip_g() -> TextEncoder:
    torch.manual_seed(1)
    network = tiny.clip(CLIPTextModelWithProjection, width=tiny.WIDE).eval()
    return TextEncoder(tiny.clip_tokenizer(pad="!"), network, hidden_layer(2))


@pytest.fixture(scope="module")
def t5() -> TextEncoder:
    torch.manual_seed(2)
    config = T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    network = T5EncoderModel(config).eval()
    return TextEncoder(tiny.t5_tokenizer(), network, last_layer, max_tokens=32, truncate=True)


def read(prompt: str, *encoders: TextEncoder) -> torch.Tensor:
    return encode([prompt], encoders, "cpu")[0]


def by_the_library(encoder: TextEncoder, prompt: str) -> Any:
    ids = encoder.tokenizer(
        prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    return encoder.model(ids, output_hidden_states=True)


@pytest.mark.parametrize("prompt", ["a red cat", "", "wow! (", "中文"])
def test_a_plain_prompt_is_read_as_the_libraries_read_it(clip: TextEncoder, prompt: str):
    assert torch.equal(read(prompt, clip), by_the_library(clip, prompt).last_hidden_state)


def test_two_encoders_stand_side_by_side(clip: TextEncoder, clip_g: TextEncoder):
    left, right = read("a cat!", clip), read("a cat!", clip_g)
    assert torch.equal(right, by_the_library(clip_g, "a cat!").hidden_states[-2])
    assert torch.equal(read("a cat!", clip, clip_g), torch.cat([left, right], dim=-1))


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_clip_skip_counts_from_the_last_layer(clip: TextEncoder, stop: int):
    output = by_the_library(clip, "a cat")
    expected = clip.model.final_layer_norm(output.hidden_states[-stop])
    skipping = TextEncoder(clip.tokenizer, clip.model, clip_layer(stop))
    torch.testing.assert_close(read("a cat", skipping), expected)


def test_a_clip_skip_beyond_the_first_layer_is_what_goes_into_it(clip: TextEncoder):
    deepest, beyond = (
        read("a cat", TextEncoder(clip.tokenizer, clip.model, clip_layer(stop))) for stop in (5, 12)
    )
    assert torch.equal(deepest, beyond)


def test_a_long_prompt_is_read_to_its_end(clip: TextEncoder):
    start = "a red cat, " * 9
    long, other = read(start + "on a boat", clip), read(start + "in a tree", clip)
    assert long.shape[1] % 77 == 0
    assert long.shape[1] > 77
    assert not torch.equal(long, other)
    assert torch.equal(read(start[:70], clip)[:, 1:3], long[:, 1:3])


def test_all_prompts_are_of_one_length_padded_with_empty_pieces(clip: TextEncoder):
    short, long = encode(["a cat", "a red cat, " * 20], [clip], "cpu")
    assert short.shape == long.shape
    assert torch.equal(short[:, :77], read("a cat", clip))
    assert torch.equal(short[:, 77:154], read("", clip))


def test_break_begins_another_piece(clip: TextEncoder):
    both = read("a cat BREAK a dog", clip)
    assert torch.equal(both, torch.cat([read("a cat ", clip), read(" a dog", clip)], dim=1))


def test_weights_act_and_a_weight_of_one_does_not(clip: TextEncoder):
    plain = read("a red cat", clip)
    assert torch.equal(read("a (red:1.0) cat", clip), plain)
    assert torch.equal(read("([a red cat])", clip), plain)
    pieces = read("a red cat".replace("red", "(red:1.0001)"), clip)
    torch.testing.assert_close(pieces, plain, atol=1e-3, rtol=1e-3)
    changes = [
        (read(f"a (red:{weight}) cat", clip) - plain).abs().mean()
        for weight in (1.1, 1.5, 2.0, 0.9, 0.5, 0.0)
    ]
    assert changes[0] < changes[1] < changes[2]
    assert 0 < changes[3] < changes[4] < changes[5]


@pytest.mark.parametrize("prompt", ["a cat++", "a.blend", '"a" "b".and', "a.swap b", "use-- it"])
def test_compels_own_signs_are_ordinary_characters(clip: TextEncoder, prompt: str):
    assert torch.equal(read(prompt, clip), by_the_library(clip, prompt).last_hidden_state)


def test_the_tokenizers_own_marks_do_not_end_a_text(clip: TextEncoder):
    assert torch.equal(read("a <|endoftext|> cat", clip), read("a  cat", clip))
    assert read("(<|endoftext|>:0.5)", clip).shape == (1, 77, tiny.WIDTH)


def test_too_many_low_weights_in_a_long_prompt_are_refused(clip: TextEncoder):
    with pytest.raises(PromptTooComplex, match="at most 256"):
        read("(a:0.5) b " * 300, clip)
    read("(a:1.5) b " * 300, clip)


def test_the_pooled_vector_is_that_of_the_first_piece_without_weights(clip_g: TextEncoder):
    plain, weighed = prompts.pool(["a red cat", "a (red:1.5) cat"], clip_g, "cpu")
    assert torch.equal(plain, by_the_library(clip_g, "a red cat").text_embeds)
    assert torch.equal(weighed, plain)


def test_t5_reads_as_far_as_it_reaches(t5: TextEncoder):
    assert read("a cat", t5).shape == (1, 32, 16)
    assert torch.equal(read("a" * 40, t5), read("a" * 60, t5))
    assert not torch.equal(read("a (cat:1.5)", t5), read("a cat", t5))
    assert not torch.equal(read("a (cat:0.5)", t5), read("a cat", t5))
    assert read("a BREAK cat", t5).shape == (1, 32, 16)
    assert prompts.is_whole("a cat", t5)
    assert not prompts.is_whole("a" * 40, t5)


def test_a_trained_word_stands_for_its_vectors(clip: TextEncoder):
    knows = TextEncoder(clip.tokenizer, clip.model, clip.layer, WORDS)
    plain, trained = read("a easyneg cat", clip), read("a easyneg cat", knows)
    assert not torch.equal(plain, trained)
    for spelling in ("a embedding:easyneg cat", "a <easyneg> cat", "a EASYNEG cat"):
        assert torch.equal(read(spelling, knows), trained)
    for other in ("a easynegx cat", "a neg cat", "easy neg"):
        assert torch.equal(read(other, knows), read(other, clip))
    assert not torch.equal(read("a (easyneg:1.4) cat", knows), trained)


def test_trained_words_leave_no_trace(clip: TextEncoder):
    before, size = read("easyneg", clip), len(clip.tokenizer)
    weights = clip.model.get_input_embeddings().weight.clone()
    read("easyneg", TextEncoder(clip.tokenizer, clip.model, clip.layer, WORDS))
    assert torch.equal(read("easyneg", clip), before)
    assert torch.equal(clip.model.get_input_embeddings().weight, weights)
    assert len(clip.tokenizer) == size
    assert not clip.model.get_input_embeddings()._forward_hooks


def test_a_trained_word_is_in_the_pooled_vector_too(clip_g: TextEncoder):
    words = {"x": torch.randn(2, tiny.WIDE, generator=torch.Generator().manual_seed(3))}
    knows = TextEncoder(clip_g.tokenizer, clip_g.model, clip_g.layer, words)
    plain, trained = (prompts.pool(["an x"], one, "cpu")[0] for one in (clip_g, knows))
    assert plain.shape == trained.shape
    assert not torch.equal(plain, trained)


@settings(max_examples=40, deadline=None)
@given(prompt=st.text(alphabet="ab ,.!()[]\\:0123456789<|>", max_size=160))
def test_no_prompt_fails(clip: TextEncoder, clip_g: TextEncoder, prompt: str):
    vectors = read(prompt, clip, clip_g)
    assert vectors.shape[1] % 77 == 0
    assert bool(torch.isfinite(vectors).all())
