"""Single weights files: whole checkpoints, VAEs, and embeddings (trained words).

Reads headers and small files only. What cannot be used is said in words for the operator.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from genserve.file_hashes import fingerprint
from genserve.store.found_files import shown, unreadable, wrong_link, wrong_name
from genserve.store.safetensors_header import BadWeights, Header, read_header
from genserve.store.weights import PICKLES, ModelFolder, scan_bare, scan_part

MAX_VECTORS = 75
"""Vectors of one trained word: more than a text encoder reads at once make no sense."""
_DECODERS = ("decoder.conv_in.weight", "first_stage_model.decoder.conv_in.weight")
"""Tensors that every VAE file has, with and without its original prefix."""
_UNETS = "model.diffusion_model."
_TOKENIZERS = {
    "sd15": {"tokenizer": ""},
    "sdxl": {"tokenizer": "", "tokenizer_2": ""},
    "sd3": {
        "tokenizer": "text_encoders.clip_l.",
        "tokenizer_2": "text_encoders.clip_g.",
        "tokenizer_3": "text_encoders.t5xxl.",
    },
}
"""What a checkpoint of each family needs beside it: where its tensors have such names."""


@dataclass(frozen=True, slots=True)
class ExtraFile:
    """A file or folder by the name that requests use. `problem`: why it cannot be used.

    `stamp` changes whenever it does.
    """

    name: str
    path: Path
    problem: str | None = None
    stamp: str = ""


def scan_checkpoint(folder: Path, family: str, base: Path | None) -> ModelFolder:
    """Look into a folder that holds one Stable Diffusion checkpoint, a single .safetensors file.

    Folders beside it may hold configurations and tokenizers, in diffusers' layout; `base` is the
    folder of the model that lends the tokenizers otherwise. Raises `OSError`.
    """
    found = scan_bare(folder)
    if not found.present or found.problem is not None:
        return found
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        return replace(found, problem=f"{folder.name} holds several .safetensors; leave one there")
    header, problem = _header(files[0], folder)
    if header is not None and not any(name.startswith(_UNETS) for name in header.shapes):
        problem = f"{files[0].name} is no checkpoint of Stable Diffusion"
    elif header is not None:
        problem = _missing_tokenizer(header, folder, family, base)
    return replace(found, problem=problem and f"{folder.name}/{problem}")


def _missing_tokenizer(header: Header, folder: Path, family: str, base: Path | None) -> str | None:
    lenders = [folder] if base is None else [folder, base]
    for tokenizer, prefix in _TOKENIZERS[family].items():
        needed = any(name.startswith(prefix) for name in header.shapes)
        if needed and not any((lender / tokenizer).is_dir() for lender in lenders):
            return (
                f"{tokenizer} is missing: a checkpoint file has no tokenizer; copy that folder from"
                " the model's page, or name a model that has it as `base` in config.yaml"
            )
    return None


def scan_controlnet(folder: Path) -> ModelFolder:
    """Look into the folder of a ControlNet, which is read only when a request asks for it."""
    found = scan_part(folder)
    class_name = _class_name(folder)
    if found.problem is None and class_name is not None and "ControlNet" not in class_name:
        its_class = shown(class_name)
        problem = f"{folder.name}/config.json is that of {its_class}; put a ControlNet there"
        return replace(found, problem=problem)
    return found


def scan_vaes(models_dir: Path) -> list[ExtraFile]:
    """The VAEs directly below the models folder: folders of diffusers', and single files.

    Raises `OSError`.
    """
    if not models_dir.is_dir():
        return []
    return _told(vae for path in sorted(models_dir.iterdir()) if (vae := _vae(path)) is not None)


def _told(found: Iterable[ExtraFile]) -> list[ExtraFile]:
    """With names that can be told to people, and none of use that a worker could not be told."""
    files = []
    for file in found:
        wrong = wrong_name(file.path)
        problem = file.problem if wrong is None else f"{shown(file.path.name)} {wrong}"
        stamp = stamp_of(file.path)
        files.append(replace(file, name=shown(file.name), problem=problem, stamp=stamp))
    return files


def stamp_of(path: Path) -> str:
    """Changes whenever the file does, or one of the files directly in the folder."""
    try:
        return fingerprint([path] if path.is_file() else filter(Path.is_file, path.iterdir()))
    except OSError:  # it has just gone, or cannot be read: that is told by the scan
        return ""


def _vae(path: Path) -> ExtraFile | None:
    if os.path.isdir(path):  # unlike Path's: a link may lead into what cannot be read
        if _class_name(path) != "AutoencoderKL":
            return None
        return ExtraFile(path.name, path, scan_part(path).problem)
    if path.suffix.lower() in PICKLES:
        return ExtraFile(path.stem, path, _of_a_pickle(path))
    if path.suffix != ".safetensors":
        return None
    header, problem = _header(path, path.parent)
    if header is not None:
        whole = any(name.startswith(_UNETS) for name in header.shapes)
        if whole or not any(name in header.shapes for name in _DECODERS):
            return None
    return ExtraFile(path.stem, path, problem)


def problem_of_vae(file: Path, name: str) -> str | None:
    """Why what config.yaml names so cannot be a VAE, by its header. Raises `OSError`."""
    if file.is_dir():
        return scan_part(file).problem
    if not file.is_file():
        return f"its VAE is missing; put it into models/{name}"
    if file.suffix.lower() in PICKLES:
        return _of_a_pickle(file)
    if file.suffix != ".safetensors":
        return f"{file.name} is no .safetensors file; take the VAE in that format"
    header, problem = _header(file, file.parent)
    if header is not None and not any(name in header.shapes for name in _DECODERS):
        problem = f"{file.name} is no VAE, but other weights"
    return problem


def _of_a_pickle(file: Path) -> str:
    return f"{file.name} may run code; convert it to safetensors"


def _class_name(folder: Path) -> str | None:
    try:
        content = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    name = content.get("_class_name") if isinstance(content, dict) else None
    return name if isinstance(name, str) else None


def scan_embeddings(folder: Path) -> list[ExtraFile]:
    """The embeddings directly in a folder, by name. Raises `OSError`."""
    return _told(_embeddings(folder)) if folder.is_dir() else []


def _embeddings(folder: Path) -> Iterator[ExtraFile]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICKLES:
            yield ExtraFile(path.stem, path, _of_a_pickle(path))
        elif path.suffix.lower() == ".safetensors" and os.path.isfile(path):
            header, problem = _header(path, folder)
            if header is not None and not _are_words(header):
                problem = f"{path.name} holds no embedding, but other weights"
            yield ExtraFile(path.stem, path, problem)


def _are_words(header: Header) -> bool:
    """Each tensor is a few vectors of one width."""
    shapes = header.shapes.values()
    return bool(shapes) and all(
        len(shape) in (1, 2) and (len(shape) == 1 or 1 <= shape[0] <= MAX_VECTORS)
        for shape in shapes
    )


def _header(path: Path, folder: Path) -> tuple[Header | None, str | None]:
    """A file's header, or what is wrong with the file."""
    try:
        wrong = wrong_link(path, folder)
        return (read_header(path), None) if wrong is None else (None, f"{path.name} {wrong}")
    except BadWeights as bad:
        return None, f"{path.name} {bad.problem}"
    except OSError as error:
        return None, unreadable(path.name, error)
