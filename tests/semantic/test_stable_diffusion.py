"""The small Stable Diffusions: without what the negative prompt says, in boxes, and along maps."""

import pytest

from genserve.domain.request import Mode
from tests.semantic.conftest import ROOT, LoadRecipe, at_hand
from train_tiny.classifier import SubjectClassifier
from train_tiny.member_figures import MEASURES, Figures, measured
from train_tiny.sd_painting import GUIDANCE, negative_figures

SEED = 1


@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ["tiny-sd15", "tiny-sdxl"])
def test_a_negative_prompt_takes_away_the_colour_that_it_names(
    recipe: LoadRecipe, model: str
) -> None:
    painter = recipe(model).painter(Mode.TEXT2IMG, steps=25, guidance=GUIDANCE)
    figures = negative_figures(painter, SEED, 16)
    assert figures["negative prompt"] >= 80
    assert figures["negative prompt of another colour"] >= 40


@pytest.mark.timeout(900)
def test_boxes_are_filled(recipe: LoadRecipe, judge: SubjectClassifier) -> None:
    """By a model that was never taught to fill: the colour is right, the subject often torn."""
    painter = recipe("tiny-sd15").painter(Mode.FILL, steps=25, guidance=7.5)
    figures = measured(MEASURES["fill"], painter, judge, SEED, 24)
    assert figures["colour"] >= 80
    assert figures["subject"] >= 40


def guided(recipe: LoadRecipe, judge: SubjectClassifier, kind: str) -> Figures:
    at_hand(ROOT / "models" / f"tiny-sd15-{kind}")
    painter = recipe("tiny-sd15").painter(Mode.CONTROLNET, kind, steps=25, guidance=GUIDANCE)
    return measured(MEASURES[kind], painter, judge, SEED, 24)


@pytest.mark.timeout(900)
def test_edges_are_followed(recipe: LoadRecipe, judge: SubjectClassifier) -> None:
    assert guided(recipe, judge, "canny")["edge_f1"] >= 0.6


@pytest.mark.timeout(900)
def test_depth_is_followed(recipe: LoadRecipe, judge: SubjectClassifier) -> None:
    assert guided(recipe, judge, "depth")["iou"] >= 0.6
