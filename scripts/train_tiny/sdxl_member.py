"""tiny-sdxl: what it is trained, exported and measured by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

from .export import half
from .member_card import write_card
from .members import MemberRun, replace_folder
from .pairs import load_pairs
from .sd_base import SCHEDULE, SdBase
from .sd_member import PICTURES, SAMPLING, SCENES, SD_TARGETS, judge_scenes, write_facts
from .sd_painting import sdxl_painter
from .sd_text import SdText
from .sd_training import train_unet
from .sdxl_base import SdxlBase, SdxlText, build_sdxl_unet, train_sdxl_text
from .stories import SD_STORIES

_TEXT_STEPS = 800
_UNET_STEPS = 9000
_SCENES = replace(SCENES, name="sdxl")


def train_sdxl(run: MemberRun) -> None:
    """On tiny-sd15's VAE and text encoder, which the folder holds too."""
    shipped = SdBase.shipped(run.base, run.device)
    if not isinstance(first := shipped.text, SdText):
        raise TypeError("the shipped model has one text encoder")
    text = train_sdxl_text(run.folder, first, run.seed, run.steps(_TEXT_STEPS), run.device)
    base = SdxlBase(shipped.vae, text, build_sdxl_unet(), shipped.fingerprint, run.device)
    count = run.pictures(PICTURES)
    sets = load_pairs(run.folder, _SCENES, base, count, run.seed, run.device)
    if not run.wants("train"):
        return
    train_unet(run.folder, base, _SCENES, sets, run.seed, run.steps(_UNET_STEPS))
    if run.wants("export"):
        replace_folder(run.out, lambda out: _export(base, text, out))
    if run.wants("evaluate"):
        judge_scenes(run, sdxl_painter(run.out))
    if run.wants("card"):
        write_card(run.out, SD_STORIES["sdxl"], SD_TARGETS)


def _export(base: SdxlBase, text: SdxlText, out: Path) -> None:
    """In the folder layout of Stable Diffusion XL 1.0."""
    StableDiffusionXLPipeline(
        vae=half(base.vae),
        text_encoder=half(text.first.encoder),
        text_encoder_2=half(text.second),
        tokenizer=text.first.tokenizer,
        tokenizer_2=text.tokenizer,
        unet=half(base.unet),
        scheduler=EulerDiscreteScheduler(**SCHEDULE, **SAMPLING),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    ).save_pretrained(out)
    write_facts(out)
