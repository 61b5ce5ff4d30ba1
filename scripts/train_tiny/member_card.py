"""Figures and model card of one member: what it is, how it was trained, what it reaches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .canvas import Pixels

# Of a sample sheet.
COLUMNS = 8
# Of all other measures: percent.
_UNITS = {
    "iou": "0 to 1",
    "edge_f1": "0 to 1",
    "outside": "mean difference where nothing was masked, of 255",
}

_FRONT_MATTER = """---
license: apache-2.0
library_name: diffusers
---
"""


@dataclass(frozen=True)
class Story:
    """What a card tells besides figures. `training` are numbered steps, `usage` is Python, `took`
    is how long training took if `figures.json` does not say."""

    title: str
    summary: str
    usage: str
    training: Sequence[str]
    command: str
    sheet: str
    took: str = ""


def write_figures(
    out: Path, figures: Mapping[str, Any], missed: Sequence[str], **conditions: Any
) -> None:
    """`figures.json`: the figures, under which conditions, and what is below its target."""
    content = {**conditions, "figures": figures, "missed": list(missed)}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / "figures.json").write_text(text, encoding="utf-8")
    print(text)


def write_sheet(path: Path, rows: Sequence[Sequence[Pixels]]) -> None:
    """Rows of pictures of one size, in few enough colours to stay small."""
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    Image.fromarray(sheet).quantize(96).save(path, optimize=True)


def write_card(out: Path, story: Story, targets: Mapping[str, float]) -> None:
    """Reads `figures.json` from `out`; writes `README.md` there, beside `samples.png`."""
    content = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    steps = "\n".join(f"{number}. {text}" for number, text in enumerate(story.training, start=1))
    took = time_taken(content) or [story.took]
    parts = [
        f"{_FRONT_MATTER}# {story.title}\n",
        f"{story.summary}\n",
        f"![samples](samples.png)\n\n{story.sheet}\n",
        f"```python\n{story.usage.strip()}\n```\n",
        f"## How it was trained\n\n```\n{story.command}\n```\n\n{steps}\n",
        *(f"{sentence}\n" for sentence in took if sentence),
        _figures_section(content, targets),
    ]
    (out / "README.md").write_text("\n".join(parts), encoding="utf-8")


def time_taken(content: Mapping[str, Any]) -> list[str]:
    """Of `figures.json`: how long training took, and on what; nothing where that is not known."""
    told = content.get("training")
    return [f"Training took {told['minutes']} minutes on {told['on']}."] if told else []


def _with_unit(measure: str) -> str:
    unit = "log-odds" if measure.startswith("odds") else _UNITS.get(measure, "%")
    return f"{measure} ({unit})"


def _figures_section(content: Mapping[str, Any], targets: Mapping[str, float]) -> str:
    figures: Mapping[str, Any] = content["figures"]
    conditions = ", ".join(
        f"{name.replace('_', ' ')} {value}"
        for name, value in content.items()
        if name not in ("figures", "missed", "training")
    )
    lines = ["## Figures\n", f"Fixed seeds; {conditions}.\n"]
    if all(isinstance(value, Mapping) for value in figures.values()):
        names = list(dict.fromkeys(name for row in figures.values() for name in row))
        lines += [
            "| | " + " | ".join(map(_with_unit, names)) + " |",
            "| --- |" + " ---: |" * len(names),
        ]
        lines += [
            f"| {title} | " + " | ".join(str(row.get(name, "")) for name in names) + " |"
            for title, row in figures.items()
        ]
    else:
        lines += ["| | figure | target |", "| --- | ---: | ---: |"]
        lines += [
            f"| {_with_unit(name)} | {value} | {targets.get(name, '')} |"
            for name, value in figures.items()
        ]
    missed = content["missed"]
    lines.append(
        "\n" + ("Below target: " + "; ".join(missed) + "." if missed else "Every target is met.")
    )
    return "\n".join(lines) + "\n"
