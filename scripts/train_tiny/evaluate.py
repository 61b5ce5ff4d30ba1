"""Measures an exported folder through FluxPipeline, on captions of triples that were never trained.

Background, subject colour and position are read from pixels; the subject by a classifier that was
trained on drawings only.
"""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline
from tqdm import tqdm  # type: ignore[import-untyped]

from .canvas import Pixels
from .captions import caption
from .checkpoint import step_seed
from .classifier import SubjectClassifier, name_subjects
from .palette import COLOURS
from .readings import background_of, subject_colour, subject_position
from .scenes import BUCKETS, SceneSpec, draw, sample_spec

CAPTIONS = 500
STEPS = 20
GUIDANCE = 3.5
BATCH = 25
# How many of the 500 captions each value of the guidance sweep draws.
SWEEP_CAPTIONS = 30
SWEEP = (0.0, 1.0, 2.0, 5.0, 8.0, 20.0, 50.0)
TASKS = ("background", "colour", "position", "subject")
TARGETS = {"background": 98.0, "colour": 95.0, "position": 95.0, "subject": 90.0}
CHINESE_SLACK, ASPECT_SLACK = 3.0, 5.0
SECONDS_TARGET = 1.5
_ALWAYS = frozenset({"colour", "background"})


def load_pipeline(folder: Path) -> FluxPipeline:
    pipeline = FluxPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def held_out_specs(seed: int, bucket: str, count: int) -> list[tuple[SceneSpec, frozenset[str]]]:
    """Specs and what their captions name: always subject, colour, background; often position."""
    rng = random.Random(step_seed(seed, "evaluate", bucket))
    result = []
    for _ in range(count):
        spec = sample_spec(rng, bucket, held_out=True, natural_share=0.0)
        said = {*_ALWAYS}
        said |= {name for name in ("position", "size", "pose") if rng.random() < 0.6}
        result.append((spec, frozenset(said)))
    return result


def captions_of(
    specs: list[tuple[SceneSpec, frozenset[str]]], language: str, seed: int
) -> list[str]:
    rng = random.Random(step_seed(seed, "evaluate-captions", language))
    return [caption(spec, rng, language, said) for spec, said in specs]


def paint(
    pipeline: FluxPipeline, prompts: list[str], bucket: str, guidance: float, label: str
) -> list[Pixels]:
    """One picture per prompt; the noise of the n-th prompt is seeded with n."""
    width, height = BUCKETS[bucket]
    pictures: list[Pixels] = []
    for start in tqdm(range(0, len(prompts), BATCH), desc=label, mininterval=5):
        part = prompts[start : start + BATCH]
        seeds = range(start, start + len(part))
        result = pipeline(
            part,
            width=width,
            height=height,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            max_sequence_length=pipeline.tokenizer_2.model_max_length,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        ).images
        pictures.extend((result * 255).round().astype(np.uint8))
    return pictures


def score(
    pictures: list[Pixels],
    specs: list[tuple[SceneSpec, frozenset[str]]],
    classifier: SubjectClassifier,
) -> dict[str, float]:
    """Percent right per task. Position counts where the caption names it; position and subject
    colour where the background is one colour, before which they can be read from pixels."""
    marks: dict[str, list[bool]] = {task: [] for task in TASKS}
    named = name_subjects(classifier, pictures, [spec for spec, _ in specs])
    for picture, (spec, said), subject in zip(pictures, specs, named, strict=True):
        marks["background"].append(background_of(picture) == spec.background)
        marks["subject"].append(subject == spec.subject)
        if spec.background in COLOURS:
            colour = subject_colour(picture, spec.background)
            marks["colour"].append(colour == spec.colour)
            if "position" in said:
                position = subject_position(picture, spec.background)
                marks["position"].append(position == spec.position)
    return {task: round(100 * statistics.mean(right), 1) for task, right in marks.items()}


def seconds_per_picture(pipeline: FluxPipeline) -> float:
    """Median time of one 128 x 128 picture of 20 steps, batch 1, after one to warm up."""
    times = []
    for _ in range(6):
        began = time.perf_counter()
        paint(pipeline, ["a red cat on a blue background"], "1:1", GUIDANCE, "timing")
        times.append(time.perf_counter() - began)
    return round(statistics.median(times[1:]), 2)


def evaluate_pipeline(folder: Path, classifier: SubjectClassifier, seed: int) -> dict[str, Any]:
    pipeline = load_pipeline(folder)
    specs = held_out_specs(seed, "1:1", CAPTIONS)
    drawings = [draw(spec).pixels for spec, _ in specs]
    english = captions_of(specs, "en", seed)
    chinese = captions_of(specs, "zh", seed)
    figures: dict[str, Any] = {
        "captions": CAPTIONS,
        "steps": STEPS,
        "guidance": GUIDANCE,
        "drawings": score(drawings, specs, classifier),
        "english": score(paint(pipeline, english, "1:1", GUIDANCE, "english"), specs, classifier),
        "chinese": score(paint(pipeline, chinese, "1:1", GUIDANCE, "chinese"), specs, classifier),
        "aspect_ratios": {},
        "guidance_sweep": {},
    }
    for bucket in list(BUCKETS)[1:]:
        other = held_out_specs(seed, bucket, CAPTIONS)
        painted = paint(pipeline, captions_of(other, "en", seed), bucket, GUIDANCE, bucket)
        figures["aspect_ratios"][bucket] = score(painted, other, classifier)
    for guidance in SWEEP:
        painted = paint(pipeline, english[:SWEEP_CAPTIONS], "1:1", guidance, f"cfg {guidance:g}")
        result = score(painted, specs[:SWEEP_CAPTIONS], classifier)
        figures["guidance_sweep"][f"{guidance:g}"] = result
    figures["seconds_per_picture"] = seconds_per_picture(pipeline)
    figures["threads"] = torch.get_num_threads()
    figures["missed"] = missed_targets(figures)
    return figures


def missed_targets(figures: dict[str, Any]) -> list[str]:
    """In words, every figure that is below its target; empty if all are met."""
    missed = []
    for task, target in TARGETS.items():
        english = figures["english"][task]
        if english < target:
            missed.append(f"english {task}: {english} < {target}")
        if figures["chinese"][task] < english - CHINESE_SLACK:
            missed.append(f"chinese {task}: {figures['chinese'][task]} < {english} - 3")
        for bucket, result in figures["aspect_ratios"].items():
            if result[task] < english - ASPECT_SLACK:
                missed.append(f"{bucket} {task}: {result[task]} < {english} - 5")
    seconds = figures["seconds_per_picture"]
    if seconds > SECONDS_TARGET:
        missed.append(f"seconds per picture: {seconds} > {SECONDS_TARGET}")
    return missed
