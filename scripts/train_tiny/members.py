"""The members that add to tiny-flux-dev: what each is trained, exported and measured by."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .canvas import Pixels
from .checkpoint import training_time
from .classifier import SubjectClassifier, train_classifier
from .export import clean_json, half
from .flux_base import FluxBase
from .flux_control import distil_guidance, train_control_lora, train_whole
from .flux_controlnet import train_controlnet
from .lessons import CANNY, DEPTH, FILL, POSE
from .lora_formats import save_control_lora
from .member_card import COLUMNS, write_card, write_figures, write_sheet
from .member_figures import MEASURES, SAMPLES, Measure
from .painting import (
    GUIDANCE,
    STEPS,
    Order,
    Painter,
    control_painter,
    controlnet_painter,
    fill_painter,
    redux_painter,
)
from .pairs import Lesson, PairSet, load_pairs
from .redux import LESSON as REDUX
from .redux import ReduxCodec, redux_pipeline, train_redux, train_sight
from .stories import STORIES

MEMBER_STAGES = ("data", "train", "export", "evaluate", "card")
CLASSIFIER_STEPS = 400
SIGHT_STEPS = 3500
GUIDED_STEPS = 700
_GRAY = 128

Save = Callable[[Path], None]
"""Writes what was trained into a folder."""
Train = Callable[["MemberRun", FluxBase, Lesson, dict[str, PairSet], int], Save]


@dataclass(frozen=True)
class MemberRun:
    """One run's settings. `folder` keeps this member's checkpoints, `shared` the family's, `base`
    is the shipped model that it adds to; `whole` trains all weights instead of a Control-LoRA."""

    name: str
    seed: int
    folder: Path
    shared: Path
    out: Path
    base: Path
    device: torch.device
    last_stage: str
    steps_scale: float
    whole: bool = False

    def steps(self, full: int) -> int:
        return max(1, round(full * self.steps_scale))

    def pictures(self, full: int) -> int:
        return max(160, round(full * min(1.0, self.steps_scale)))

    def training(self) -> dict[str, Any]:
        """How long its stages took, for `figures.json`; `whole` has a stage of its own."""
        paths = sorted(set(self.folder.rglob("*.pt")) - set(self.folder.rglob("pairs.pt")))
        return training_time(path for path in paths if (path.stem == "whole") == self.whole)

    def wants(self, stage: str) -> bool:
        return MEMBER_STAGES.index(stage) <= MEMBER_STAGES.index(self.last_stage)


@dataclass(frozen=True)
class FluxMember:
    """`kind` names its measure and its story; `steps` of 32 examples of `pictures` drawings."""

    kind: str
    lesson: Lesson
    steps: int
    pictures: int
    train: Train
    painter: Callable[[Path, Path], Painter]
    codec: Callable[[Path, torch.device], FluxBase] = FluxBase


def _train_control(
    run: MemberRun, base: FluxBase, lesson: Lesson, sets: dict[str, PairSet], steps: int
) -> Save:
    if run.whole:
        transformer = train_whole(run.folder, base, lesson, sets, run.seed, steps)
        return lambda out: half(transformer).save_pretrained(out / "transformer")
    worn = train_control_lora(run.folder, base, lesson, sets, run.seed, steps)
    return lambda out: save_control_lora(worn, out)


def _train_fill(
    run: MemberRun, base: FluxBase, lesson: Lesson, sets: dict[str, PairSet], steps: int
) -> Save:
    if run.whole:
        return _train_control(run, base, lesson, sets, steps)
    teaching = train_control_lora(run.folder, base, lesson, sets, run.seed, steps)
    guided_steps = run.steps(GUIDED_STEPS)
    worn = distil_guidance(run.folder, base, teaching, lesson, sets, run.seed, guided_steps)
    return lambda out: save_control_lora(worn, out)


def _train_pose(
    run: MemberRun, base: FluxBase, lesson: Lesson, sets: dict[str, PairSet], steps: int
) -> Save:
    controlnet = train_controlnet(run.folder, base, lesson, sets, run.seed, steps)
    return lambda out: half(controlnet).save_pretrained(out)


def _train_redux(
    run: MemberRun, base: FluxBase, lesson: Lesson, sets: dict[str, PairSet], steps: int
) -> Save:
    sight = train_sight(run.folder, base, run.seed, run.steps(SIGHT_STEPS))
    stage = train_redux(run.folder, base, sight, sets, run.seed, steps)
    return lambda out: redux_pipeline(half(stage)).save_pretrained(out)


FLUX_MEMBERS: Mapping[str, FluxMember] = {
    "flux-depth": FluxMember("depth", DEPTH, 3000, 8000, _train_control, control_painter),
    "flux-canny": FluxMember("canny", CANNY, 2000, 8000, _train_control, control_painter),
    "flux-fill": FluxMember("fill", FILL, 3500, 8000, _train_fill, fill_painter),
    "flux-openpose": FluxMember("openpose", POSE, 4000, 8000, _train_pose, controlnet_painter),
    "flux-redux": FluxMember(
        "redux", REDUX, 1000, 4000, _train_redux, redux_painter, codec=ReduxCodec
    ),
}


def train_flux_member(run: MemberRun, member: FluxMember) -> None:
    base = member.codec(run.base, run.device)
    count = run.pictures(member.pictures)
    sets = load_pairs(run.folder, member.lesson, base, count, run.seed, run.device)
    if not run.wants("train"):
        return
    save = member.train(run, base, member.lesson, sets, run.steps(member.steps))
    if run.wants("export"):
        replace_folder(run.out, save)
    measure = MEASURES[member.kind]
    if run.wants("evaluate"):
        painter = member.painter(run.base, run.out)
        judge(run, measure, painter, steps=STEPS, guidance=GUIDANCE)
    if run.wants("card"):
        write_card(run.out, STORIES[member.kind], measure.targets)


def replace_folder(out: Path, save: Save) -> None:
    """Writes beside `out` and puts it there by a rename: whole, or as it was before."""
    beside = out.with_name(out.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save(beside)
    for path in beside.rglob("*.json"):
        clean_json(path)
    shutil.rmtree(out, ignore_errors=True)
    beside.rename(out)


def judge(run: MemberRun, measure: Measure, painter: Painter, **conditions: float) -> None:
    """Measures the exported folder as it will be shipped, and draws its sample sheet.

    `conditions`, as steps and guidance, are noted beside the figures.
    """
    classifier = subject_classifier(run)
    asked = measure.ask(run.seed, SAMPLES)
    pictures = painter(asked.orders)
    figures = measure.score(asked, pictures, classifier)
    conditions = {"samples": SAMPLES, **conditions}
    write_figures(run.out, figures, measure.missed(figures), **conditions, **run.training())
    given = [given_picture(order) for order in asked.orders[:COLUMNS]]
    write_sheet(run.out / "samples.png", [given, pictures[:COLUMNS]])


def subject_classifier(run: MemberRun) -> SubjectClassifier:
    """The one that judges the whole family, trained on drawings when it is first needed."""
    steps = run.steps(CLASSIFIER_STEPS)
    return train_classifier(run.shared, run.seed, steps, run.device).to("cpu")


def given_picture(order: Order) -> Pixels:
    """What an order gives, as a sheet shows it: what is masked is gray."""
    if order.picture is None:
        raise TypeError("the order gives no picture")
    if order.mask is None:
        return order.picture
    known = order.picture.copy()
    known[order.mask > 127] = _GRAY
    return known
