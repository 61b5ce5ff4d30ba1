"""tiny-sd15 and its two ControlNets: what they are trained, exported and measured by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, StableDiffusionPipeline

from .export import half, json_text, server_facts
from .flow import LOOSENESS
from .lessons import CANNY, DEPTH
from .member_card import COLUMNS, write_card, write_figures, write_sheet
from .member_figures import MEASURES, SAMPLES
from .members import MemberRun, judge, replace_folder, subject_classifier
from .painting import Painter
from .pairs import Lesson, Shown, load_pairs
from .scenes import SceneSpec, draw, sample_spec
from .sd_base import SCHEDULE, SdBase, build_sd_vae, build_unet, sd_caption
from .sd_painting import (
    GUIDANCE,
    SD_MEASURE,
    STEPS,
    negative_figures,
    sd_control_painter,
    sd_painter,
)
from .sd_text import SdText, train_sd_text
from .sd_training import train_sd_controlnet, train_unet
from .stories import SD_STORIES
from .vae import train_vae

_VAE_STEPS = 3500
_TEXT_STEPS = 800
_UNET_STEPS = 6000
PICTURES = 16_000
# How schedulers are told to walk their steps: from noise alone, as they were trained. Stable
# Diffusion's own "leading" begins a step later, and small pictures then lose their colours.
SAMPLING: dict[str, Any] = {"steps_offset": 1, "timestep_spacing": "trailing"}
SD_TARGETS = {
    **SD_MEASURE.targets,
    "negative prompt": 80.0,
    # Whoever does not hear which colour is named cannot meet both.
    "negative prompt of another colour": 40.0,
}


def _show(spec: SceneSpec) -> Shown:
    drawing = draw(spec)
    return Shown(drawing.pixels, drawing.mask)


SCENES = Lesson(
    "sd15",
    lambda rng, bucket: sample_spec(rng, bucket, looseness=LOOSENESS),
    _show,
    sd_caption,
)


def train_sd15(run: MemberRun) -> None:
    vae = train_vae(run.folder, run.seed, run.steps(_VAE_STEPS), run.device, build_sd_vae)
    vae.register_to_config(shift_factor=None)
    text = train_sd_text(run.folder, run.seed, run.steps(_TEXT_STEPS), run.device)
    made_of = f"{run.seed} {run.steps(_VAE_STEPS)} {vae.config.scaling_factor}"
    base = SdBase(vae, text, build_unet(), made_of, run.device)
    count = run.pictures(PICTURES)
    sets = load_pairs(run.folder, SCENES, base, count, run.seed, run.device)
    if not run.wants("train"):
        return
    train_unet(run.folder, base, SCENES, sets, run.seed, run.steps(_UNET_STEPS))
    if run.wants("export"):
        replace_folder(run.out, lambda out: _export(base, text, out))
    if run.wants("evaluate"):
        judge_scenes(run, sd_painter(run.out))
    if run.wants("card"):
        write_card(run.out, SD_STORIES["sd15"], SD_TARGETS)


def _export(base: SdBase, text: SdText, out: Path) -> None:
    """In the folder layout of Stable Diffusion 1.5, without its safety checker."""
    StableDiffusionPipeline(
        vae=half(base.vae),
        text_encoder=half(text.encoder),
        tokenizer=text.tokenizer,
        unet=half(base.unet),
        scheduler=DDIMScheduler(**SCHEDULE, **SAMPLING, set_alpha_to_one=False, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(out)
    write_facts(out)


def write_facts(out: Path) -> None:
    """What GenServe wants to know of a model on the small UNets."""
    facts = server_facts() | {"multiple_of": 8}
    (out / "genserve.json").write_text(json_text(facts), encoding="utf-8")


def judge_scenes(run: MemberRun, painter: Painter) -> None:
    """Measures a model that draws from text, with and without a negative prompt."""
    classifier = subject_classifier(run)
    asked = SD_MEASURE.ask(run.seed, 2 * SAMPLES)
    pictures = painter(asked.orders)
    figures = SD_MEASURE.score(asked, pictures, classifier)
    figures |= negative_figures(painter, run.seed, SAMPLES)
    missed = replace(SD_MEASURE, targets=SD_TARGETS).missed(figures)
    conditions = {"samples": 2 * SAMPLES, "steps": STEPS, "guidance": GUIDANCE}
    write_figures(run.out, figures, missed, **conditions, **run.training())
    rows = [pictures[:COLUMNS], pictures[COLUMNS : 2 * COLUMNS]]
    write_sheet(run.out / "samples.png", rows)


@dataclass(frozen=True)
class SdControl:
    """A ControlNet for tiny-sd15; `kind` names its measure and its story."""

    kind: str
    lesson: Lesson
    steps: int = 3000
    pictures: int = 8000


SD_CONTROLS: Mapping[str, SdControl] = {
    "sd15-canny": SdControl("canny", CANNY),
    "sd15-depth": SdControl("depth", DEPTH),
}


def train_sd_control(run: MemberRun, member: SdControl) -> None:
    base = SdBase.shipped(run.base, run.device)
    count = run.pictures(member.pictures)
    sets = load_pairs(run.folder, member.lesson, base, count, run.seed, run.device)
    if not run.wants("train"):
        return
    steps = run.steps(member.steps)
    controlnet = train_sd_controlnet(run.folder, base, member.lesson, sets, run.seed, steps)
    if run.wants("export"):
        replace_folder(run.out, lambda out: half(controlnet).save_pretrained(out))
    measure = MEASURES[member.kind]
    if run.wants("evaluate"):
        painter = sd_control_painter(run.base, run.out)
        judge(run, measure, painter, steps=STEPS, guidance=GUIDANCE)
    if run.wants("card"):
        write_card(run.out, SD_STORIES[member.kind], measure.targets)
