"""The small Stable Diffusions: from text by every scheduler, without what the negative prompt says,
in boxes, and guided by maps."""

import pytest

from genserve.domain.request import Mode
from tests.semantic.conftest import ROOT, LoadRecipe
from train_tiny.classifier import SubjectClassifier
from train_tiny.member_figures import MEASURES, Figures, measured
from train_tiny.sd_painting import GUIDANCE, SD_MEASURE, negative_figures

SEED = 1
STRONG = 7.5
"""What sd15 is asked for when nothing is said. The two methods that go on from four earlier steps
burn the small model's colours then."""
NINE = {
    "dpmpp_2m": STRONG,
    "ddim": STRONG,
    "euler": STRONG,
    "euler_a": STRONG,
    "pndm": GUIDANCE,
    "lms": GUIDANCE,
    "heun": STRONG,
    "dpm2": STRONG,
    "dpm2_a": STRONG,
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("model", "scheduler", "guidance"),
    [*(("tiny-sd15", *one) for one in NINE.items()), ("tiny-sdxl", "euler", 5.0)],
)
def test_each_scheduler_draws_what_is_said(
    recipe: LoadRecipe, judge: SubjectClassifier, model: str, scheduler: str, guidance: float
) -> None:
    painter = recipe(model).painter(Mode.TEXT2IMG, scheduler=scheduler, steps=25, guidance=guidance)
    figures = measured(SD_MEASURE, painter, judge, SEED, 16)
    assert figures["subject"] >= 75
    assert figures["colour"] >= 85
    assert figures["background"] >= 90
    assert figures["position"] >= 75


@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ["tiny-sd15", "tiny-sdxl"])
def test_a_negative_prompt_takes_away_the_colour_that_it_names(
    recipe: LoadRecipe, model: str
) -> None:
    painter = recipe(model).painter(Mode.TEXT2IMG, steps=25, guidance=GUIDANCE)
    figures = negative_figures(painter, SEED, 20)
    assert figures["negative prompt"] >= 80
    assert figures["negative prompt of another colour"] >= 40


@pytest.mark.timeout(900)
def test_boxes_are_filled_and_nothing_else_changes(
    recipe: LoadRecipe, judge: SubjectClassifier
) -> None:
    """By a model that was never taught to fill: the colour is right, the subject often torn."""
    painter = recipe("tiny-sd15").painter(Mode.FILL, steps=25, guidance=STRONG)
    figures = measured(MEASURES["fill"], painter, judge, SEED, 24)
    assert figures["colour"] >= 80
    assert figures["subject"] >= 40


def guided(recipe: LoadRecipe, judge: SubjectClassifier, kind: str) -> Figures:
    assert (ROOT / "models" / f"tiny-sd15-{kind}").is_dir(), (
        f"models/tiny-sd15-{kind} is missing: get it back from git, or train it by"
        " scripts/train_tiny/train.py"
    )
    painter = recipe("tiny-sd15").painter(Mode.CONTROLNET, kind, steps=25, guidance=GUIDANCE)
    return measured(MEASURES[kind], painter, judge, SEED, 50)


@pytest.mark.timeout(900)
def test_edges_are_followed(recipe: LoadRecipe, judge: SubjectClassifier) -> None:
    assert guided(recipe, judge, "canny")["edge_f1"] >= 0.6


@pytest.mark.timeout(900)
def test_depth_is_followed(recipe: LoadRecipe, judge: SubjectClassifier) -> None:
    assert guided(recipe, judge, "depth")["iou"] >= 0.6
