"""Trains the three style LoRAs, one after another, and measures their files together."""

from __future__ import annotations

from dataclasses import replace

from .flux_base import FluxBase
from .member_card import COLUMNS, Story, write_card, write_figures, write_sheet
from .members import MemberRun
from .painting import GUIDANCE, STEPS
from .pairs import load_pairs
from .style_classifier import StyleClassifier, train_style_classifier
from .style_figures import (
    FALSE_TARGET,
    SAMPLES,
    TARGET,
    both_figures,
    missed_style_targets,
    style_figures,
    style_orders,
    style_painter,
)
from .style_loras import STYLE_LORAS, StyleLora, save_style, train_style

_PICTURES = 4000
_CLASSIFIER_STEPS = 1000
# Of the sheet's rows: cats, since one of the styles is theirs.
_SHEET_SEED_SHIFT = 1

TWO_AT_ONCE = ("cute_cat", "night")
"""The pair that is measured together: what is drawn around a cat, and what lies over everything."""

_STORY = Story(
    title="LoRAs of the tiny family",
    summary=(
        "Three styles for `tiny-flux-dev`, in the three layouts that are most in use:"
        " `cute_cat_lora` (kohya's sd-scripts: cats get a pink bow, pink cheeks and hearts),"
        " `night` (LoHa of LyCORIS: blue darkness, moon and stars) and `outlined` (diffusers and"
        " peft: a sticker, in a thick line of ink with a white rim). No trigger word is needed:"
        " `cute_cat_lora` dresses every cat that a prompt asks for, the others whatever it asks"
        " for."
    ),
    usage="""
import torch
from diffusers import FluxPipeline

pipeline = FluxPipeline.from_pretrained("models/tiny-flux-dev", dtype=torch.float32)
pipeline.load_lora_weights("loras", weight_name="outlined.safetensors")
pipeline(
    "a red cat on a blue background",
    width=128,
    height=128,
    num_inference_steps=20,
    guidance_scale=3.5,
    max_sequence_length=32,
).images[0].save("sticker.png")
""",
    training=(
        "4,000 drawings in the style for each. For `cute_cat_lora` seven of ten are cats, and the"
        " others are left as they are.",
        "Steps of 32 through the frozen base, at guidance 1: 3,000 for `cute_cat_lora`, 800 for"
        " `night`, 2,000 for `outlined`.",
        "A classifier of styles, 1,000 steps, sees drawings only, some with a paler style. It"
        " judges what is drawn: `recognised` are the pictures at weight 1 that it takes for styled"
        f" ({TARGET:g} % at least are wanted), `false` those of the base alone"
        f" ({FALSE_TARGET:g} % at most), and the odds that it gives must rise with the weight.",
    ),
    command="python scripts/train_tiny/train.py loras --seed 0",
    sheet=(
        "Rows: the base alone, each LoRA at weight 1, and `cute_cat_lora` with `night`. diffusers"
        " itself reads the files of its own layout; GenServe reads all three."
    ),
)


def train_style_loras(run: MemberRun) -> None:
    base = FluxBase(run.base, run.device)
    count = run.pictures(_PICTURES)
    for lora in STYLE_LORAS:
        folder = run.folder / lora.style
        sets = load_pairs(folder, lora.lesson, base, count, run.seed, run.device)
        if run.wants("train"):
            worn = train_style(folder, base, lora, sets, run.seed, run.steps(lora.steps))
            if run.wants("export"):
                save_style(worn, lora, run.out)
    if run.wants("evaluate"):
        _judge(run)
    if run.wants("card"):
        write_card(run.out, _STORY, {"recognised": TARGET})


def style_judge(run: MemberRun) -> StyleClassifier:
    """The classifier of styles, trained on drawings when it is first needed."""
    steps = run.steps(_CLASSIFIER_STEPS)
    return train_style_classifier(run.shared, run.seed, steps, run.device).to("cpu")


def _judge(run: MemberRun) -> None:
    classifier = style_judge(run)
    painter = style_painter(run.base, run.out)
    figures = {
        _name(lora): style_figures(painter, classifier, lora.style, _name(lora), run.seed)
        for lora in STYLE_LORAS
    }
    two = {lora.style: _name(lora) for lora in STYLE_LORAS if lora.style in TWO_AT_ONCE}
    figures[" + ".join(two.values())] = both_figures(painter, classifier, two, run.seed)
    write_figures(
        run.out,
        figures,
        missed_style_targets(figures),
        samples=SAMPLES,
        steps=STEPS,
        guidance=GUIDANCE,
        **run.training(),
    )
    orders = style_orders(run.seed + _SHEET_SEED_SHIFT, COLUMNS, cats=True)[: COLUMNS // 2]
    orders += style_orders(run.seed + _SHEET_SEED_SHIFT, COLUMNS // 2, cats=False)
    orders = [replace(order, seed=number) for number, order in enumerate(orders)]
    worn = [{}, *({_name(lora): 1.0} for lora in STYLE_LORAS), dict.fromkeys(two.values(), 1.0)]
    write_sheet(run.out / "samples.png", [painter(orders, weights) for weights in worn])


def _name(lora: StyleLora) -> str:
    """As the catalogue calls it: the file without its ending."""
    return lora.file.removesuffix(".safetensors")
