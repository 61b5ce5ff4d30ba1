"""tiny-flux-redux's encoder: what it is shown in training is what the exported folder shows it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPriorReduxPipeline
from PIL import Image

from train_tiny.flux_base import FluxBase
from train_tiny.redux import (
    LESSON,
    SIDE,
    WORDS,
    ReduxStage,
    plain_words,
    redux_pipeline,
)
from train_tiny.scenes import BUCKETS, draw
from train_tiny.text import SEQUENCE_WIDTH
from train_tiny.text_tokenizers import MAX_TOKENS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def exported(tmp_path: Path) -> FluxPriorReduxPipeline:
    redux_pipeline(ReduxStage()).save_pretrained(tmp_path)
    return FluxPriorReduxPipeline.from_pretrained(
        tmp_path, dtype=torch.float32, local_files_only=True
    )


@pytest.mark.parametrize("bucket", BUCKETS)
def test_the_exported_extractor_shows_what_training_shows(
    exported: FluxPriorReduxPipeline, bucket: str
) -> None:
    spec = LESSON.sample(random.Random(3), bucket)
    hint = LESSON.show(spec).hint
    assert hint is not None
    assert hint.shape == (SIDE, SIDE, 3)
    shown = exported.feature_extractor.preprocess(
        images=[Image.fromarray(draw(spec).pixels)], return_tensors="np"
    )["pixel_values"][0]
    trained = hint.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(shown, trained, atol=1e-6)


def test_an_exported_encoder_says_what_the_trained_one_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stage = ReduxStage().eval()
    redux_pipeline(stage).save_pretrained(tmp_path)
    exported = FluxPriorReduxPipeline.from_pretrained(
        tmp_path, dtype=torch.float32, local_files_only=True
    )
    picture = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    with torch.no_grad():
        seen = exported.image_encoder(pixel_values=picture).last_hidden_state
        said = exported.image_embedder(seen).image_embeds
        assert torch.allclose(said, stage(picture), atol=1e-5)
    assert said.shape == (2, WORDS, SEQUENCE_WIDTH)


def test_every_scene_fits_the_words() -> None:
    """A caption that was cut off would leave out the place."""
    base = FluxBase(ROOT / "models/tiny-flux-dev", torch.device("cpu"))
    rng = random.Random(0)
    captions = [plain_words(LESSON.sample(rng, "1:1")) for _ in range(200)]
    lengths = [len(base.pipeline.tokenizer_2(text).input_ids) for text in captions]
    assert max(lengths) <= MAX_TOKENS
    assert WORDS % MAX_TOKENS == 0
