"""Members that follow a picture: does what they draw lie where it says, in the prompt's colours?"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genserve.domain.request import GenerationRequest, Mode
from genserve.pipelines import images
from tests.semantic.conftest import LoadRecipe
from tests.semantic.recipes import FILE
from train_tiny.classifier import SubjectClassifier
from train_tiny.member_figures import MEASURES, Figures, measured

SEED = 1  # the models' own figures are of seed 0
SAMPLES = 50


def figures_of(recipe: LoadRecipe, judge: SubjectClassifier, kind: str, mode: Mode) -> Figures:
    control = kind if mode is Mode.CONTROLNET else None
    painter = recipe(f"tiny-flux-{kind}").painter(mode, control)
    return measured(MEASURES[kind], painter, judge, SEED, SAMPLES)


@pytest.mark.timeout(900)
def test_depth_is_followed(recipe: LoadRecipe, judge: SubjectClassifier) -> None:
    figures = figures_of(recipe, judge, "depth", Mode.CONTROLNET)
    assert figures["iou"] >= 0.6
    assert figures["colour"] >= 85
    assert figures["background"] >= 85


@pytest.mark.timeout(900)
def test_edges_are_followed(recipe: LoadRecipe, judge: SubjectClassifier) -> None:
    figures = figures_of(recipe, judge, "canny", Mode.CONTROLNET)
    assert figures["edge_f1"] >= 0.6
    assert figures["colour"] >= 85
    assert figures["background"] >= 85


@pytest.mark.timeout(900)
def test_person_stands_on_the_joints(recipe: LoadRecipe, judge: SubjectClassifier) -> None:
    figures = figures_of(recipe, judge, "openpose", Mode.CONTROLNET)
    assert figures["joints"] >= 85
    assert figures["iou"] >= 0.5


@pytest.mark.timeout(900)
def test_reference_is_drawn_anew(recipe: LoadRecipe, judge: SubjectClassifier) -> None:
    figures = figures_of(recipe, judge, "redux", Mode.REDUX)
    assert figures["subject"] >= 85
    assert figures["colour"] >= 85
    assert figures["background"] >= 85


@pytest.mark.timeout(900)
def test_prompt_is_painted_inside_the_mask(recipe: LoadRecipe, judge: SubjectClassifier) -> None:
    figures = figures_of(recipe, judge, "fill", Mode.FILL)
    assert figures["subject"] >= 80
    assert figures["colour"] >= 85


def test_nothing_outside_the_mask_changes(recipe: LoadRecipe, tmp_path: Path) -> None:
    """At the output size, from the caller's own pixels, as the worker delivers it."""
    asked = (256, 256)
    fill = recipe("tiny-flux-fill")
    order = MEASURES["fill"].ask(SEED, 1).orders[0]
    assert order.picture is not None
    assert order.mask is not None
    files = {}
    for name, pixels in (("init", order.picture), ("mask", order.mask)):
        image = Image.fromarray(pixels).resize(asked, Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{name}.png")
        files[name] = str(tmp_path / f"{name}.png")
    request = GenerationRequest.model_validate(
        {
            "model": "tiny-flux-fill",
            "mode": Mode.FILL,
            "prompt": order.prompt,
            "images": [
                {"file": FILE | {"sha256": f"{n:064}"}, "role": n_role}
                for n, n_role in enumerate(("init", "mask"))
            ],
        }
    )
    by_hash = {f"{n:064}": path for n, path in enumerate(files.values())}
    drawn = Image.fromarray(fill.paint(replace(order, seed=3), Mode.FILL))
    kept = images.keeper(request, by_hash, asked)(images.enlarge(drawn, asked, stretch=True))
    own = np.asarray(Image.open(files["init"])).astype(int)
    mask = np.asarray(Image.open(files["mask"]))
    difference = np.abs(np.asarray(kept).astype(int) - own)
    assert difference[mask == 0].max() <= 2
    assert difference[mask == 255].mean() > 5
