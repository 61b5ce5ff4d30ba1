"""The shipped folder: loads as it is, silently and offline, fits git, and draws what is asked."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from train_tiny.evaluate import missed_targets
from train_tiny.palette import COLOURS
from train_tiny.text_tokenizers import build_clip_tokenizer, build_t5_tokenizer

MODEL = Path(__file__).resolve().parents[2] / "models" / "tiny-flux-dev"


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = FluxPipeline.from_pretrained(MODEL, dtype=torch.float32, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_folder_fits_in_ten_megabytes() -> None:
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= 10_000_000


def test_its_measured_figures_meet_every_target() -> None:
    figures = json.loads((MODEL / "figures.json").read_text(encoding="utf-8"))
    assert figures["missed"] == missed_targets(figures) == []
    assert figures["captions"] == 500


def test_configurations_name_no_place_on_a_disk() -> None:
    for path in MODEL.rglob("*config.json"):
        text = path.read_text(encoding="utf-8")
        assert "name_or_path" not in text
        assert "/tmp" not in text


def test_server_facts_agree_with_the_pipeline(pipeline: FluxPipeline) -> None:
    facts = json.loads((MODEL / "genserve.json").read_text(encoding="utf-8"))
    assert facts["multiple_of"] == 2 * pipeline.vae_scale_factor
    assert all(side % facts["multiple_of"] == 0 for bucket in facts["buckets"] for side in bucket)
    assert pipeline.tokenizer.model_max_length == pipeline.tokenizer_2.model_max_length == 32


def test_tokenizers_can_be_made_again(pipeline: FluxPipeline) -> None:
    """Token numbers must not change between processes, or resumed training sees other words."""
    assert build_clip_tokenizer().get_vocab() == pipeline.tokenizer.get_vocab()
    assert build_t5_tokenizer().get_vocab() == pipeline.tokenizer_2.get_vocab()


def test_red_cat_on_a_blue_background(pipeline: FluxPipeline) -> None:
    picture = pipeline(
        "a red cat on a blue background",
        width=128,
        height=128,
        num_inference_steps=20,
        guidance_scale=3.5,
        max_sequence_length=pipeline.tokenizer_2.model_max_length,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images[0]
    pixels = 255 * picture.astype(np.float64)
    near_blue = np.linalg.norm(pixels - COLOURS["blue"], axis=-1) < 60
    near_red = np.linalg.norm(pixels - COLOURS["red"], axis=-1) < 60
    assert near_blue.mean() > 0.5
    assert 0.05 < near_red.mean() < 0.45
    border = np.concatenate([near_blue[:4].ravel(), near_blue[-4:].ravel()])
    assert border.mean() > 0.95
