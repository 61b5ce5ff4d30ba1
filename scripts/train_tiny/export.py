"""Writes the trained parts as a diffusers pipeline folder at 16 bits."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
from torch import nn

from . import vocabulary as words
from .flow import FlowStage
from .palette import COLOURS
from .person import POSES
from .scenes import BACKGROUNDS, BUCKETS, POSITIONS, SIZES, SUBJECTS

NATIVE_PIXELS = 16384
# Sampling spends most of its steps where shapes are decided, as training does (see `flow`).
SHIFT = 3.0
_COMPONENT_FOLDERS = (
    "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "vae",
)  # fmt: skip
# Keys that say where and by what a file was written rather than what it holds.
_UNCLEAN_KEYS = ("_name_or_path", "name_or_path")


def export_pipeline(stage: FlowStage, vae: AutoencoderKL, out: Path) -> None:
    """Replaces `out`'s components, each by a rename, and leaves its other files alone."""
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT, use_dynamic_shifting=False),
        vae=half(vae),
        text_encoder=half(stage.encoders.clip),
        tokenizer=stage.encoders.clip_tokenizer,
        text_encoder_2=half(stage.encoders.t5),
        tokenizer_2=stage.encoders.t5_tokenizer,
        transformer=half(stage.transformer),
    )
    beside = out.with_name(out.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    pipeline.save_pretrained(beside)
    for path in beside.rglob("*.json"):
        clean_json(path)
    (beside / "genserve.json").write_text(json_text(server_facts()), encoding="utf-8")
    out.mkdir(parents=True, exist_ok=True)
    for name in (*_COMPONENT_FOLDERS, "model_index.json", "genserve.json"):
        target = out / name
        if target.is_dir():
            shutil.rmtree(target)
        (beside / name).rename(target)
    shutil.rmtree(beside)


def half(module: nn.Module) -> Any:
    """A copy in 16 bits, on the CPU, as it is shipped."""
    twin = copy.deepcopy(module).to("cpu", torch.float16)
    for parameter in twin.parameters():
        # The VAE trains in channels-last order, which safetensors does not store.
        parameter.data = parameter.data.contiguous()
    return twin


def clean_json(path: Path) -> None:
    """Takes out of a configuration what names a place on a disk."""
    value = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(value, dict) and any(key in value for key in _UNCLEAN_KEYS):
        for key in _UNCLEAN_KEYS:
            value.pop(key, None)
        path.write_text(json_text(value), encoding="utf-8")


def json_text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def server_facts() -> dict[str, Any]:
    """What GenServe wants to know that diffusers' configuration does not say."""
    return {
        "native_pixels": NATIVE_PIXELS,
        "buckets": [list(size) for size in BUCKETS.values()],
        "multiple_of": 16,
        "vocabulary": {
            "subjects": {
                name: _both(words.SUBJECT_EN, words.SUBJECT_ZH, name) for name in SUBJECTS
            },
            "colours": {name: _both(words.COLOUR_EN, words.COLOUR_ZH, name) for name in COLOURS},
            "backgrounds": {
                name: _both(
                    words.SCENE_EN if name in words.SCENE_EN else words.COLOUR_EN,
                    words.SCENE_ZH if name in words.SCENE_ZH else words.COLOUR_ZH,
                    name,
                )
                for name in BACKGROUNDS
            },
            "positions": {n: _both(words.POSITION_EN, words.POSITION_ZH, n) for n in POSITIONS},
            "sizes": {name: _both(words.SIZE_EN, words.SIZE_ZH, name) for name in SIZES},
            "poses": {name: [words.POSE_EN[name], words.POSE_ZH[name]] for name in POSES},
            "fillers": [*words.FILLER_EN, *words.FILLER_ZH, *words.QUALITY_EN, *words.QUALITY_ZH],
        },
    }


def _both(english: Any, chinese: Any, name: str) -> list[str]:
    return list(dict.fromkeys((*english.get(name, (name,)), *chinese.get(name, ()))))
