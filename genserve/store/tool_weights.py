"""What lies in the folders of preprocessors and upscalers, without loading any of it.

Words for the operator, as in `weights`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from genserve.file_hashes import joined
from genserve.store.weights import ModelFolder, scan_bare, scan_part

Options = Mapping[str, str | int | float | bool]

_PROCESSOR = "preprocessor_config.json"


def scan_network(folder: Path, options: Options) -> ModelFolder:
    """A network of transformers with its image processor."""
    return scan_part(folder, _PROCESSOR)


def scan_pose(folder: Path, options: Options) -> ModelFolder:
    """A pose network, and the detector in the folder beside it that the option `detector` names."""
    found = scan_part(folder)
    detector = options.get("detector")
    if detector is None or not found.present or found.problem is not None:
        return found
    name = str(detector)
    if name != Path(name).name or name in (".", ".."):
        return replace(found, problem=f"its detector {name} must be the name of a folder")
    beside = scan_part(folder.parent / name, _PROCESSOR)
    if not beside.present:
        return replace(found, problem=f"its detector is not installed; put it into models/{name}")
    revision, stamp = found.revision + beside.revision, joined(found.stamp, beside.stamp)
    return replace(found, problem=beside.problem, revision=revision, stamp=stamp)


def scan_upscaler(folder: Path, options: Options) -> ModelFolder:
    """One .safetensors file, and the package that reads it."""
    found = scan_bare(folder)
    if not found.present or found.problem is not None:
        return found
    if len(list(folder.glob("*.safetensors"))) > 1:
        return replace(found, problem=f"{folder.name} holds several .safetensors; leave one there")
    if find_spec("spandrel") is None or find_spec("torchvision") is None:
        return replace(found, problem="it needs spandrel: pip install 'genserve[upscale]'")
    return found


SCANS: dict[str, Callable[[Path, Options], ModelFolder]] = {
    "depth": scan_network,
    "openpose": scan_pose,
    "spandrel": scan_upscaler,
}
"""By family."""
