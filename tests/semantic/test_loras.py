"""LoRAs: is their style in what is drawn with them, by their weight, alone and together?"""

import pytest

from tests.semantic.conftest import LORAS, LoadRecipe, at_hand
from train_tiny.style_classifier import StyleClassifier
from train_tiny.style_figures import StylePainter, both_figures, style_figures
from train_tiny.style_loras import STYLE_LORAS
from train_tiny.style_member import TWO_AT_ONCE

SEED = 1
SAMPLES = 20
FILES = {lora.style: lora.file.removesuffix(".safetensors") for lora in STYLE_LORAS}


@pytest.fixture(scope="module")
def painter(recipe: LoadRecipe) -> StylePainter:
    for lora in STYLE_LORAS:
        at_hand(LORAS / lora.file)
    return recipe("tiny-flux-dev").dressed_painter(LORAS)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("style", FILES)
def test_style_is_recognised_and_scales(
    painter: StylePainter, style_judge: StyleClassifier, style: str
) -> None:
    figures = style_figures(painter, style_judge, style, FILES[style], SEED, SAMPLES)
    assert figures["recognised"] >= 90
    assert figures["false"] <= 10
    assert figures["odds at 0"] < figures["odds at 0.5"] < figures["odds at 1"]


@pytest.mark.timeout(900)
def test_two_styles_at_once(painter: StylePainter, style_judge: StyleClassifier) -> None:
    two = {style: FILES[style] for style in TWO_AT_ONCE}
    assert both_figures(painter, style_judge, two, SEED, SAMPLES)["recognised"] >= 85
