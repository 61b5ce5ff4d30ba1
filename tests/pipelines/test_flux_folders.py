"""What a Flux folder holds, what its base lends, and what is told when something is missing."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from genserve.domain.model import ModelSpec
from genserve.pipelines.base import BrokenModel
from genserve.pipelines.flux import Flux
from genserve.pipelines.shelf import Shelf
from tests.pipelines.conftest import LoadFlux, Watcher, request
from tests.pipelines.flux_family import FluxFamily


def broken(spec: ModelSpec) -> str:
    with pytest.raises(BrokenModel) as told:
        Flux().load(spec, "cpu", Shelf())
    return told.value.reason


def test_an_addition_without_its_base_is_told(family: FluxFamily):
    assert "name that as `base`" in broken(family.redux().model_copy(update={"base": None}))


@pytest.mark.parametrize("kind", ["redux", "openpose"])
def test_only_a_base_model_can_be_added_to(family: FluxFamily, kind: str):
    spec = getattr(family, kind)().model_copy(update={"base": family.fill().folder})
    assert "add to a base model" in broken(spec)


def test_what_a_folder_lacks_its_base_lends(family: FluxFamily, tmp_path: Path, load: LoadFlux):
    """A variant's own transformer is enough."""
    part, fill = tmp_path / "part", family.fill()
    shutil.copytree(fill.folder / "transformer", part / "transformer")
    shutil.copy(fill.folder / "model_index.json", part)
    lent = load(family.spec("part", folder=part, base=family.base().folder))
    drawn = [flux.generate(request(), 1, {}, Watcher()).tobytes() for flux in (lent, load(fill))]
    assert drawn[0] == drawn[1]


def test_channels_that_no_flux_model_takes_are_told(family: FluxFamily):
    spec = family.spec(family._whole("odd", "FluxPipeline", 96))
    assert "takes 96 channels" in broken(spec)
    assert "64, 128 (control) or 384 (fill)" in broken(spec)


@pytest.mark.parametrize(
    "part", ["transformer", "vae", "text_encoder_2", "tokenizer", "scheduler", "tokenizer_2"]
)
def test_a_missing_component_is_told(family: FluxFamily, tmp_path: Path, part: str):
    folder = tmp_path / "lame"
    shutil.copytree(family.base().folder, folder)
    shutil.rmtree(folder / part)
    assert broken(family.spec("lame", folder=folder)) == f"lame/{part} is missing"


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "text_encoder_2"])
def test_weights_that_are_missing_are_never_made_up(family: FluxFamily, tmp_path: Path, part: str):
    folder = tmp_path / "lame"
    shutil.copytree(family.base().folder, folder)
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    name = sorted(weights)[0]
    save_file({key: weights[key] for key in weights if key != name}, file, {"format": "pt"})
    assert broken(family.spec("lame", folder=folder)).startswith(f"lame/{part} lacks weights, such")


def test_another_vae_is_taken_as_a_folder_or_as_a_file(
    family: FluxFamily, tmp_path: Path, load: LoadFlux
):
    """One that paints everything a little redder shows which VAE was used."""
    shutil.copytree(family.base().folder / "vae", tmp_path / "red")
    (file,) = (tmp_path / "red").glob("*.safetensors")
    weights = load_file(file)
    weights["decoder.conv_out.bias"][0] += 0.5
    save_file(weights, file, {"format": "pt"})
    shutil.copy(file, tmp_path / "red.safetensors")
    base = family.base()
    specs = [
        base,
        base.model_copy(update={"id": "red-folder", "vae": tmp_path / "red"}),
        base.model_copy(update={"id": "red-file", "vae": tmp_path / "red.safetensors"}),
    ]
    plain, folder, single = (load(spec).generate(request(), 1, {}, Watcher()) for spec in specs)
    assert folder.tobytes() == single.tobytes()
    assert sum(folder.getchannel("R").tobytes()) > sum(plain.getchannel("R").tobytes())


def test_a_vae_of_another_family_is_told(family: FluxFamily, tmp_path: Path):
    shutil.copytree(family.base().folder / "vae", tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"shift_factor": None}))
    spec = family.base().model_copy(update={"vae": tmp_path / "other"})
    assert "is not one of Flux's" in broken(spec)
