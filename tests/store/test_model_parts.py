"""What a folder consists of, also where it is not whole."""

import json
from pathlib import Path

import pytest

from genserve.store.model_parts import Part, parts_of
from genserve.store.weights import BadFolder
from tests.store.tensors import safetensors

INDEX = {
    "_class_name": "FluxPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def model(folder: Path, *networks: str) -> Path:
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    for name in networks:
        safetensors(folder / name / "model.safetensors", {"a": (2, 3), "b": (4,)})
    return folder


def test_a_missing_part_is_left_out(tmp_path: Path) -> None:
    [part] = parts_of(model(tmp_path / "m", "vae"))
    assert (part.name, part.kind, part.parameters) == ("vae", "AutoencoderKL", 10)
    assert (part.dtypes, part.lent) == (("F16",), False)


def test_what_the_base_has_is_lent(tmp_path: Path) -> None:
    base = model(tmp_path / "base", "vae", "transformer")
    own, lent = parts_of(model(tmp_path / "m", "transformer"), base)
    assert (own.name, own.lent) == ("transformer", False)
    assert lent == Part("vae", "AutoencoderKL", lent=True)


def test_of_a_broken_file_only_the_size_is_told(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", "transformer", "vae")
    (folder / "vae" / "model.safetensors").write_bytes(b"no weights at all")
    transformer, vae = parts_of(folder)
    assert transformer.parameters == 10
    assert (vae.size_bytes, vae.parameters, vae.dtypes) == (17, 0, ())


def test_of_a_broken_index_nothing_can_be_told(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", "vae")
    (folder / "model_index.json").write_text("{")
    with pytest.raises(BadFolder, match="is not JSON"):
        parts_of(folder)
