"""Which class draws for which family. Strings, so that nothing is imported before it is needed."""

from importlib import import_module
from types import ModuleType
from typing import Any

from genserve.pipelines.base import BrokenModel, Pipeline

FAMILIES: dict[str, str] = {
    "flux": "genserve.pipelines.flux:Flux",
    "sd15": "genserve.pipelines.sd15:Sd15",
    "sdxl": "genserve.pipelines.sdxl:Sdxl",
    "sd3": "genserve.pipelines.sd3:Sd3",
    "canny": "genserve.pipelines.canny:pipeline",
    "depth": "genserve.pipelines.depth:pipeline",
    "openpose": "genserve.pipelines.openpose:pipeline",
    "lanczos": "genserve.pipelines.lanczos:pipeline",
    "spandrel": "genserve.pipelines.super_resolution:pipeline",
    "fake": "genserve.pipelines.fake:Fake",
    "diffusers": "genserve.pipelines.plain:Plain",
}


def import_family(family: str) -> ModuleType:
    """Import the family's code, which may take seconds. Raises `BrokenModel`, `ImportError`."""
    if family not in FAMILIES:
        raise BrokenModel(f"there is no family {family}")
    return import_module(FAMILIES[family].partition(":")[0])


def make(family: str) -> Pipeline:
    """A pipeline of that family, nothing loaded yet. Raises `BrokenModel`, `ImportError`."""
    module = import_family(family)
    make_one: Any = getattr(module, FAMILIES[family].partition(":")[2])
    pipeline: Pipeline = make_one()
    return pipeline
