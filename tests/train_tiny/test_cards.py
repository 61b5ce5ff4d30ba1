"""What the shipped cards say: their Python runs as it stands, and figures have units."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train_tiny.member_card import Story, write_card, write_figures

ROOT = Path(__file__).resolve().parents[2]
CARDS = [*sorted(ROOT.glob("models/tiny-*/README.md")), ROOT / "loras" / "README.md"]
_STORY = Story("tiny", "Draws.", "pass", ["Once."], "train", "Samples.")


def python_of(card: Path) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.DOTALL)
    assert isinstance(block, str)
    return block


def stand_in(path: Path) -> None:
    """A picture for a snippet to open: a bright box before black, which does as a mask, too."""
    pixels = np.zeros((128, 128, 3), np.uint8)
    pixels[32:96, 32:96] = 255
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_a_cards_python_draws_what_it_says(
    card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = python_of(card)
    for name in ("models", "loras"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in re.findall(r'load_image\("(.+?)"\)', code):
        stand_in(tmp_path / name)
    quick, changed = re.subn(r"num_inference_steps=\d+", "num_inference_steps=2", code)
    assert changed == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(quick, str(card), "exec"), {"__name__": "card"})
    (saved,) = re.findall(r'\.save\("(.+?)"\)', code)
    sides = [int(number) for number in re.findall(r"(?:width|height)=(\d+)", code)]
    with Image.open(tmp_path / saved) as picture:
        assert picture.size == tuple(sides)
        assert np.ptp(np.asarray(picture)) > 0


def test_every_figure_has_its_unit(tmp_path: Path) -> None:
    write_figures(tmp_path, {"subject": 90.0, "iou": 0.8, "outside": 3.4}, [], samples=50)
    write_card(tmp_path, _STORY, {"iou": 0.6})
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| subject (%) | 90.0 |  |" in card
    assert "| iou (0 to 1) | 0.8 | 0.6 |" in card
    assert "of 255) | 3.4 |" in card


def test_odds_are_said_to_be_logarithms(tmp_path: Path) -> None:
    write_figures(tmp_path, {"night": {"recognised": 90.0, "odds at 1": 6.7}}, [], samples=50)
    write_card(tmp_path, _STORY, {})
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| | recognised (%) | odds at 1 (log-odds) |" in card


def test_a_card_tells_how_long_training_took_where_that_is_known(tmp_path: Path) -> None:
    write_figures(tmp_path, {"subject": 90.0}, [], samples=50)
    write_card(tmp_path, _STORY, {})
    card = tmp_path / "README.md"
    assert "took" not in card.read_text(encoding="utf-8")
    training = {"minutes": 12, "on": "2 CPU threads"}
    write_figures(tmp_path, {"subject": 90.0}, [], samples=50, training=training)
    write_card(tmp_path, _STORY, {})
    text = card.read_text(encoding="utf-8")
    assert "Training took 12 minutes on 2 CPU threads.\n" in text
    assert "Fixed seeds; samples 50.\n" in text
