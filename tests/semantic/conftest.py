"""The shipped tiny models in GenServe's recipes, and the classifiers that judge what they draw."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from genserve.config_sources import load
from genserve.core import inventory
from genserve.core.inventory import ModelEntry
from genserve.pipelines.shelf import Shelf
from genserve.pipelines.wardrobe import Wardrobe
from tests.semantic.recipes import Recipe
from train_tiny.classifier import SubjectClassifier
from train_tiny.judges import load_judges
from train_tiny.style_classifier import StyleClassifier

ROOT = Path(__file__).parents[2]
JUDGES = Path(__file__).parent / "judges"
LORAS = ROOT / "loras"

LoadRecipe = Callable[[str], Recipe]


def at_hand(path: Path) -> Path:
    """What ships with GenServe: that it got lost is a failure, not a reason to leave tests out."""
    shown = path.relative_to(ROOT)
    assert path.exists(), (
        f"{shown} is missing: get it back from git (`git checkout -- {shown}`), or train it by"
        " scripts/train_tiny/train.py"
    )
    return path


@pytest.fixture(scope="session")
def entries() -> dict[str, ModelEntry]:
    """The models of the shipped configuration, as they lie in the repository."""
    config = load(ROOT / "config.yaml", environ={})
    folders = {"models_dir": ROOT / "models", "loras_dir": LORAS}
    return inventory.entries(config.model_copy(update=folders))


@pytest.fixture(scope="session")
def recipe(entries: dict[str, ModelEntry]) -> Iterator[LoadRecipe]:
    """A shipped model by its id, each read once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two files of tests share the cores
    shelf, loaded = Shelf(), dict[str, Recipe]()
    wardrobe = Wardrobe("cpu", files_bytes=2**26)

    def _load(model_id: str) -> Recipe:
        at_hand(ROOT / "models" / model_id)
        entry = entries[model_id]
        assert entry.problem is None, entry.problem
        if model_id not in loaded:
            loaded[model_id] = Recipe(entry.spec, shelf, wardrobe)
        return loaded[model_id]

    yield _load
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def judges() -> tuple[SubjectClassifier, StyleClassifier]:
    return load_judges(at_hand(JUDGES))


@pytest.fixture(scope="session")
def judge(judges: tuple[SubjectClassifier, StyleClassifier]) -> SubjectClassifier:
    """Names subjects."""
    return judges[0]


@pytest.fixture(scope="session")
def style_judge(judges: tuple[SubjectClassifier, StyleClassifier]) -> StyleClassifier:
    return judges[1]
