"""config.yaml at the top shows every setting, each with its default."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from genserve.config import Config, Model
from genserve.config_sources import load

FILE = Path(__file__).parents[2] / "config.yaml"
SHIPPED_MODELS = "models"
"""The one part that has content of its own: the code knows no models."""


def settings_of(section: BaseModel) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        found[name] = settings_of(value) if isinstance(value, BaseModel) else value
    return found


def flattened(nested: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, dict) and value:
            found |= flattened(value, f"{above}{name}.")
        else:
            found[above + name] = value
    return found


def test_it_lists_exactly_the_settings():
    listed = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    known = settings_of(Config())
    del listed[SHIPPED_MODELS], known[SHIPPED_MODELS]
    assert list(flattened(listed)) == list(flattened(known)), "the same settings in the same order"


def test_each_value_is_the_default(tmp_path: Path):
    config = load(FILE, environ={}, env_file=tmp_path / ".env")
    for name in Config.model_fields:
        if name != SHIPPED_MODELS:
            assert getattr(config, name) == getattr(Config(), name), name


def test_every_setting_or_its_section_has_a_comment():
    lines = FILE.read_text(encoding="utf-8").splitlines()
    assert sum(line.lstrip().startswith("#") for line in lines) > 40


def test_its_models_are_those_of_the_api_document(tmp_path: Path):
    models = load(FILE, environ={}, env_file=tmp_path / ".env").models
    documented = {
        "flux1-dev",
        "flux1-fill-dev",
        "flux1-depth-dev",
        "flux1-canny-dev",
        "flux1-openpose-dev",
        "flux1-redux-dev",
    }
    assert documented <= models.keys()
    assert all(isinstance(model, Model) for model in models.values())
