"""Full-size models without their weights: folders that hold configurations alone.

For benchmarks, and to prove that a real model's shapes fit the recipe. With the option
`random_weights: true` of a model, `placement` makes up each network's weights where it computes.
The configurations are the published ones: in `architectures/`, and those that ship for checkpoint
files in `configs/`. Tokenizers are a small model's, with the lengths of the real ones: which words
a prompt has changes neither shapes nor times.

Imports no torch: the command line writes such folders, and a worker loads them.
"""

import json
import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from genserve.domain.request import ControlType, ImageRole, Mode
from genserve.pipelines import shrinking

_ARCHITECTURES = ("flux", "stable_diffusion")
_CONFIG_NAMES = {
    "scheduler": "scheduler_config.json",
    "feature_extractor": "preprocessor_config.json",
}

Content = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Usual:
    """What a model is usually asked for, by its makers' card, and how it is kept on a GPU.

    `side` in pixels; `images` are the pictures that the mode needs.
    """

    family: str
    mode: Mode
    images: tuple[ImageRole, ...]
    steps: int
    guidance: float
    side: int
    multiple_of: int
    gpu_dtype: str


def names() -> list[str]:
    """The models whose architecture is known."""
    return [name for file in _ARCHITECTURES for name in _read(file)["models"]]


def usual(name: str) -> Usual:
    """What that model is usually asked for. Raises `KeyError`."""
    architecture, model = _of(name)
    told = architecture["usual"] | model.get("usual", {})
    images = tuple(ImageRole(role) for role in told.pop("images", ()))
    family = str((architecture | model)["family"])
    return Usual(family=family, images=images, mode=Mode(told.pop("mode")), **told)


def write(name: str, root: Path, tokenizers: Path, *, shrink: int = 1) -> Content:
    """Write the folder of that model, and of its base, below `root`.

    `tokenizers` is the folder of a small model to take those from. `shrink` divides layers and
    widths, see `shrinking`. Answers with what a `ModelSpec` is made of: the folders of the model
    ("folder") and, where it adds to one, of its base ("base"), and its "controls". Raises
    `KeyError`, `ValueError`.
    """
    architecture, model = _of(name)
    components = _Components(architecture["components"], shrink)
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    written: Content = {"folder": folder}
    if "network" in model:
        _dump(folder / "config.json", components[model["network"]])
        written["controls"] = {ControlType(kind): folder for kind in model["controls"]}
    else:
        _write_pipeline(folder, model, architecture, components)
        _write_tokenizers(folder, architecture | model, tokenizers)
    if "base" in model:
        written["base"] = write(model["base"], root, tokenizers, shrink=shrink)["folder"]
    return written


@dataclass(frozen=True, slots=True)
class _Components:
    """Configurations by name, with some values changed, divided by `shrink`."""

    contents: Content
    shrink: int

    def __getitem__(self, name: str) -> Content:
        return self.changed(name, {})

    def changed(self, name: str, changes: Content) -> Content:
        content = self.contents[name]
        if isinstance(content, str):  # it ships for checkpoint files
            file = files("genserve.pipelines").joinpath("configs", content)
            content = json.loads(file.read_text(encoding="utf-8"))
        return shrinking.shrunk(content | changes, self.shrink)


def _of(name: str) -> tuple[Content, Content]:
    """The architecture that holds the model, and the model. Raises `KeyError`."""
    for file in _ARCHITECTURES:
        architecture = _read(file)
        if name in architecture["models"]:
            return architecture, architecture["models"][name]
    raise KeyError(name)


def _read(architecture: str) -> Content:
    file = files("genserve.pipelines").joinpath("architectures", f"{architecture}.json")
    content: Content = json.loads(file.read_text(encoding="utf-8"))
    return content


def _write_pipeline(
    folder: Path, model: Content, architecture: Content, components: _Components
) -> None:
    """Its networks' and its scheduler's configurations, and which class each is of."""
    index: Content = {"_class_name": model["pipeline"]}
    parts: Content = (architecture | model)["parts"]
    for name, (library, class_name, component) in parts.items():
        index[name] = [library, class_name]
        (folder / name).mkdir(exist_ok=True)
        changes = model.get("changes", {}).get(name, {})
        content = components.changed(model.get("uses", {}).get(name, component), changes)
        _dump(folder / name / _CONFIG_NAMES.get(name, "config.json"), content)
    _dump(folder / "model_index.json", index)


def _write_tokenizers(folder: Path, model: Content, source: Path) -> None:
    """Those of a small model, under the names and with the lengths that this model has."""
    index = json.loads((folder / "model_index.json").read_bytes())
    for name, (class_name, longest, taken) in model["tokenizers"].items():
        index[name] = ["transformers", class_name]
        shutil.copytree(source / taken, folder / name, dirs_exist_ok=True)
        config = json.loads((folder / name / "tokenizer_config.json").read_bytes())
        _dump(folder / name / "tokenizer_config.json", config | {"model_max_length": longest})
    _dump(folder / "model_index.json", index)


def _dump(file: Path, content: Content) -> None:
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")
