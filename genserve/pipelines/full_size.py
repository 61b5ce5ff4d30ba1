"""Full-size models without their weights: folders that hold configurations alone.

For benchmarks, and to prove that a real model's shapes fit the recipe. With the option
`random_weights: true` of a model, `placement` makes up each network's weights where it computes.
The configurations are the published ones, in `architectures/`. Tokenizers are a small model's, with
the lengths of the real ones: which words a prompt has changes neither shapes nor times.
"""

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

_ARCHITECTURES = ("flux",)
_TEXT = {
    "text_encoder": ("transformers", "CLIPTextModel", "clip_l"),
    "text_encoder_2": ("transformers", "T5EncoderModel", "t5_xxl"),
    "vae": ("diffusers", "AutoencoderKL", "vae_16"),
}
_TOKENIZERS = {"tokenizer": ("CLIPTokenizer", 77), "tokenizer_2": ("T5TokenizerFast", 512)}
"""Class, and the tokens that it makes of a prompt at most."""
_CONFIG_NAMES = {
    "scheduler": "scheduler_config.json",
    "feature_extractor": "preprocessor_config.json",
}

Content = dict[str, Any]


def names() -> list[str]:
    """The models whose architecture is known."""
    return [name for family in _ARCHITECTURES for name in _read(family)["models"]]


def write(name: str, root: Path, tokenizers: Path) -> dict[str, Path]:
    """Write the folder of that model, and of its base, below `root`.

    `tokenizers` is the folder of a small model to take those from. Answers with the folders of the
    model ("folder") and, where it adds to one, of its base ("base"). Raises `KeyError`.
    """
    architecture = _read("flux")
    model, components = architecture["models"][name], architecture["components"]
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    if "network" in model:
        _dump(folder / "config.json", components[model["network"]])
    elif "parts" in model:
        _write_parts(folder, model["pipeline"], model["parts"], components)
    else:
        _write_pipeline(folder, model, components, tokenizers)
    if "base" not in model:
        return {"folder": folder}
    return {"folder": folder, "base": write(model["base"], root, tokenizers)["folder"]}


def _read(family: str) -> Content:
    file = files("genserve.pipelines").joinpath("architectures", f"{family}.json")
    content: Content = json.loads(file.read_text(encoding="utf-8"))
    return content


def _write_pipeline(folder: Path, model: Content, components: Content, tokenizers: Path) -> None:
    transformer = components["flux_12b"] | model.get("transformer", {})
    scheduler = model.get("scheduler", "shifted")
    parts = {
        **_TEXT,
        "transformer": ("diffusers", "FluxTransformer2DModel", "transformer"),
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", scheduler),
    }
    _write_parts(folder, model["pipeline"], parts, {**components, "transformer": transformer})
    index = json.loads((folder / "model_index.json").read_bytes())
    for name, (class_name, longest) in _TOKENIZERS.items():
        index[name] = ["transformers", class_name]
        shutil.copytree(tokenizers / name, folder / name, dirs_exist_ok=True)
        config = json.loads((folder / name / "tokenizer_config.json").read_bytes())
        _dump(folder / name / "tokenizer_config.json", config | {"model_max_length": longest})
    _dump(folder / "model_index.json", index)


def _write_parts(folder: Path, pipeline: str, parts: Content, components: Content) -> None:
    index: Content = {"_class_name": pipeline}
    for name, (library, class_name, component) in parts.items():
        index[name] = [library, class_name]
        (folder / name).mkdir(exist_ok=True)
        _dump(folder / name / _CONFIG_NAMES.get(name, "config.json"), components[component])
    _dump(folder / "model_index.json", index)


def _dump(file: Path, content: Content) -> None:
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")
