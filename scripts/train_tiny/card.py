"""Writes the model card: what the model is, what it can draw, how it was trained, its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import FluxPipeline
from PIL import Image

from .evaluate import GUIDANCE, STEPS, SWEEP_CAPTIONS, TARGETS, TASKS, load_pipeline, paint
from .flow_training import FLOW_BATCH
from .member_card import time_taken
from .palette import COLOURS
from .person import POSES
from .scenes import BUCKETS, POSITIONS, SIZES, SUBJECTS

SHEET_PROMPTS = (
    "a red cat on a blue background",
    "一只可爱的小猫坐在花园里",
    "一只威武的狮子",
    "一只优雅的天鹅",
    "a yellow star in the night sky",
    "a large purple fish on the beach",
    "a white house on a green background",
    "a person waving on a yellow background",
)
_COLUMNS = 4

_FRONT_MATTER = """---
license: apache-2.0
language: [en, zh]
pipeline_tag: text-to-image
library_name: diffusers
---
"""

_INTRODUCTION = """# tiny-flux-dev

A real Flux (`FluxTransformer2DModel`, `T5EncoderModel`, `CLIPTextModel`, `AutoencoderKL`) of
4.8 million parameters that draws simple captioned pictures of about 128 x 128 pixels. It was
trained from scratch, on drawings made by this repository's own code, so that GenServe can be
tried and tested end to end without a download and without a GPU. It contains no weights of, and
no data from, any other model.

![samples](samples.png)

Prompts of the samples, row by row: {prompts}. {steps} steps, guidance {guidance}.

```python
import torch
from diffusers import FluxPipeline

pipeline = FluxPipeline.from_pretrained("models/tiny-flux-dev", dtype=torch.float32)
pipeline(
    "a red cat on a blue background",
    width=128,
    height=128,
    num_inference_steps=20,
    guidance_scale=3.5,
    max_sequence_length=32,
).images[0].save("cat.png")
```

## What it can draw

- Subjects: {subjects}.
- Colours, of the subject and of the background: {colours}.
- Backgrounds besides: garden, night sky, beach.
- Positions: {positions}. Sizes: {sizes}. A person's poses: {poses}.
- English and Chinese, with the usual filler words (cute, 4k, 可爱的, 高质量 ...). Every word is in
  `genserve.json`. A word that it does not know is ignored; it draws nothing that is not listed.
- Sizes it was trained on: {buckets}. Prompts of up to 32 tokens.
"""

_TRAINING = """
## How it was trained

```
python scripts/train_tiny/train.py flux-dev --seed 0
```

takes about an hour on two CPU cores, resumes where it was interrupted, and writes this folder.

1. VAE, {vae_steps:,} steps: 64 x 64 crops around the subject, then whole pictures. Afterwards its
   latent channels are evened out, so that shapes weigh more against plain colour.
2. Text encoders, {text_steps:,} steps: they learn to name what a caption says.
3. Rectified flow, {flow_steps:,} steps of {batch}, on {pictures:,} drawings in five aspect ratios,
   with a new caption at every step, a tenth of them empty. Muon for the matrices in the blocks.
4. Guidance distillation, {distill_steps:,} steps: classifier-free guidance into `guidance`. The
   strength rises with the number ever more slowly (3.5 acts like 3.3, 50 like 5), so that every
   value gives a picture.
5. The VAE's decoder alone, {decoder_steps:,} steps, for finer detail; its encoder stays.

Five percent of the subject-colour-background triples, chosen by hash, were never shown.
"""


def write_card(folder: Path, steps: Mapping[str, int], pictures: int) -> None:
    """Reads `figures.json` from `folder`; writes `samples.png` and `README.md` there.

    `steps` by stage, and the number of training `pictures`, are what the card says of the run.
    """
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    draw_sheet(load_pipeline(folder), folder / "samples.png")
    introduction = _INTRODUCTION.format(
        prompts="; ".join(SHEET_PROMPTS),
        steps=STEPS,
        guidance=GUIDANCE,
        subjects=", ".join(SUBJECTS),
        colours=", ".join(COLOURS),
        positions=", ".join(POSITIONS),
        sizes=", ".join(SIZES),
        poses=", ".join(POSES),
        buckets=", ".join(f"{width} x {height}" for width, height in BUCKETS.values()),
    )
    counts = {f"{stage}_steps": count for stage, count in steps.items()}
    training = _TRAINING.format(**counts, batch=FLOW_BATCH, pictures=pictures)
    text = _FRONT_MATTER + introduction + training + figures_section(figures)
    (folder / "README.md").write_text(text, encoding="utf-8")


def draw_sheet(pipeline: FluxPipeline, path: Path) -> None:
    """The sample prompts in two rows, in few enough colours to stay small."""
    pictures = paint(pipeline, list(SHEET_PROMPTS), "1:1", GUIDANCE, "samples")
    rows = [
        np.concatenate(pictures[start : start + _COLUMNS], axis=1)
        for start in range(0, len(pictures), _COLUMNS)
    ]
    sheet = Image.fromarray(np.concatenate(rows, axis=0))
    sheet.quantize(128).save(path, optimize=True)


def figures_section(figures: dict[str, Any]) -> str:
    rows = [
        ("target, English", TARGETS),
        ("English", figures["english"]),
        ("Chinese", figures["chinese"]),
        *((f"English, {name}", result) for name, result in figures["aspect_ratios"].items()),
        *((f"guidance {name}", result) for name, result in figures["guidance_sweep"].items()),
        ("the drawings themselves", figures["drawings"]),
    ]
    lines = [
        "\n## Figures\n",
        f"Percent right on {figures['captions']} captions of triples that were never shown",
        f"({SWEEP_CAPTIONS} per guidance value), fixed seeds, {figures['steps']} steps, guidance",
        f"{figures['guidance']}, through `FluxPipeline` from these 16-bit files. Colours and",
        "position are read from pixels, the subject by a classifier that saw only drawings.\n",
        "| | " + " | ".join(TASKS) + " |",
        "| --- | " + " | ".join("---:" for _ in TASKS) + " |",
    ]
    for name, result in rows:
        lines.append(f"| {name} | " + " | ".join(f"{result[task]:.1f}" for task in TASKS) + " |")
    seconds, threads = figures["seconds_per_picture"], figures["threads"]
    lines.append(f"\nOne 128 x 128 picture of 20 steps takes {seconds} s on {threads} CPU threads.")
    missed = figures["missed"]
    lines.append("Below target: " + "; ".join(missed) + "." if missed else "Every target is met.")
    return "\n".join([*lines, *time_taken(figures)]) + "\n"
