"""Each noise scheduler draws what is said, at the guidance that sd15 and sdxl have by default."""

import pytest

from genserve.domain.request import Mode
from tests.semantic.conftest import LoadRecipe
from train_tiny.classifier import SubjectClassifier
from train_tiny.member_figures import measured
from train_tiny.sd_painting import GUIDANCE, SD_MEASURE

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
    figures = measured(SD_MEASURE, painter, judge, SEED, 12)
    assert figures["subject"] >= 75
    assert figures["colour"] >= 85
    assert figures["background"] >= 90
    assert figures["position"] >= 75
