"""tiny-sd15: from text by every scheduler, without what the negative prompt says, and guided."""

import pytest

from genserve.domain.request import Mode
from tests.semantic.conftest import ROOT, LoadRecipe
from train_tiny.classifier import SubjectClassifier
from train_tiny.member_figures import MEASURES, Figures, measured
from train_tiny.sd_painting import GUIDANCE, SD_MEASURE, negative_figures

SEED = 1
NINE = ("dpmpp_2m", "ddim", "euler", "euler_a", "pndm", "lms", "heun", "dpm2", "dpm2_a")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("scheduler", NINE)
def test_each_scheduler_draws_what_is_said(
    recipe: LoadRecipe, judge: SubjectClassifier, scheduler: str
) -> None:
    sd15 = recipe("tiny-sd15")
    painter = sd15.painter(Mode.TEXT2IMG, scheduler=scheduler, steps=25, guidance=GUIDANCE)
    figures = measured(SD_MEASURE, painter, judge, SEED, 20)
    assert figures["subject"] >= 75
    assert figures["colour"] >= 85
    assert figures["background"] >= 90


@pytest.mark.timeout(900)
def test_negative_prompt_takes_a_colour_away(recipe: LoadRecipe) -> None:
    painter = recipe("tiny-sd15").painter(Mode.TEXT2IMG, steps=25, guidance=GUIDANCE)
    assert negative_figures(painter, SEED, 30)["negative prompt"] >= 80


def guided(recipe: LoadRecipe, judge: SubjectClassifier, kind: str) -> Figures:
    if not (ROOT / "models" / f"tiny-sd15-{kind}").is_dir():
        pytest.skip(f"models/tiny-sd15-{kind} is not trained yet")
    painter = recipe("tiny-sd15").painter(Mode.CONTROLNET, kind, steps=25, guidance=GUIDANCE)
    return measured(MEASURES[kind], painter, judge, SEED, 50)


@pytest.mark.timeout(900)
def test_edges_are_followed(recipe: LoadRecipe, judge: SubjectClassifier) -> None:
    assert guided(recipe, judge, "canny")["edge_f1"] >= 0.6


@pytest.mark.timeout(900)
def test_depth_is_followed(recipe: LoadRecipe, judge: SubjectClassifier) -> None:
    assert guided(recipe, judge, "depth")["iou"] >= 0.6
