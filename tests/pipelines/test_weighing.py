"""What a model will take: told before it is read, close to what it then takes."""

import shutil
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from genserve.domain.model import ModelSpec
from genserve.pipelines import sd3, sd15, sdxl
from genserve.pipelines.cache import Residents
from genserve.pipelines.shelf import Shelf
from genserve.pipelines.weighing import files_of, sources, weights_bytes
from tests.pipelines.diffusion_models import spec_of
from tests.pipelines.flux_family import FluxFamily

FLOATS, WHOLE = 1000, 10


def network(folder: Path) -> None:
    folder.mkdir(parents=True)
    tensors = {
        "weight": numpy.zeros((10, FLOATS // 10), numpy.float16),
        "positions": numpy.zeros(WHOLE, numpy.int64),
    }
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    """A transformer and a VAE of equal size."""
    for name in ("transformer", "vae"):
        network(tmp_path / "flux" / name)
    (tmp_path / "flux" / "model_index.json").write_text("{}")
    return ModelSpec(id="flux", family="flux", folder=tmp_path / "flux")


@pytest.mark.parametrize(
    ("changes", "device", "numbers"),
    [
        ({}, "cpu", 4 + 4),
        ({}, "cuda", 2 + 2),
        ({"dtype": "float32"}, "cuda", 4 + 4),
        ({"dtype": "bfloat16"}, "cpu", 2 + 2),
        ({"quantization": "fp8"}, "cuda", 1 + 2),
        ({"quantization": "nf4"}, "cuda", 0.5 + 2),
    ],
)
def test_numbers_count_as_they_will_be_kept(
    spec: ModelSpec, changes: dict[str, str], device: str, numbers: float
):
    expected = numbers * FLOATS + 2 * 8 * WHOLE
    assert weights_bytes(spec.model_copy(update=changes), Shelf(), device) == expected  # type: ignore[arg-type]


def test_one_file_takes_the_place_of_what_its_base_draws_with(spec: ModelSpec, tmp_path: Path):
    (tmp_path / "q4").mkdir()
    (tmp_path / "q4" / "flux.gguf").write_bytes(bytes(123))
    q4 = ModelSpec(id="q4", family="flux", folder=tmp_path / "q4", base=spec.folder)
    assert weights_bytes(q4, Shelf(), "cuda") == 123 + 2 * FLOATS + 8 * WHOLE


STABLE_DIFFUSION = {"sd15": sd15.LAYOUT, "sdxl": sdxl.LAYOUT, "sd3": sd3.LAYOUT}


@pytest.mark.parametrize("family", STABLE_DIFFUSION)
def test_only_networks_that_are_read_are_counted(family: str, tmp_path: Path):
    for name in (*STABLE_DIFFUSION[family].networks, "safety_checker", "image_encoder"):
        network(tmp_path / name)
    (tmp_path / "model_index.json").write_text("{}")
    spec = spec_of(tmp_path, family)
    assert {source.name for source in sources(spec)} == set(STABLE_DIFFUSION[family].networks)


def test_flux_reads_a_picture_encoder_of_redux_alone(family: FluxFamily):
    redux = family.redux()
    assert redux.base is not None
    read = {"transformer", "vae", "text_encoder", "text_encoder_2"}
    assert {source.name for source in sources(family.base())} == read
    assert {source.name for source in sources(redux)} == read | {"image_encoder", "image_embedder"}


def test_of_several_variants_the_one_that_is_read_is_counted(spec: ModelSpec):
    vae = spec.folder / "vae"
    for variant in ("fp16", "non_ema"):
        shutil.copy(vae / "model.safetensors", vae / f"model.{variant}.safetensors")
    assert [file.name for file in files_of(vae)] == ["model.safetensors"]
    (vae / "model.non_ema.safetensors").unlink()
    (vae / "model.safetensors").rename(vae / "model.fp16-00001-of-00001.safetensors")
    names = ["model.fp16-00001-of-00001.safetensors", "model.fp16.safetensors"]
    assert [file.name for file in files_of(vae)] == names
    (vae / "model.gguf").write_bytes(b"")
    assert [file.name for file in files_of(vae)] == ["model.gguf"]


def test_a_checkpoint_is_all_of_its_model(tiny_models: Path, tmp_path: Path):
    """Its base lends it tokenizers, and no networks."""
    network(tmp_path / "my model")
    checkpoint = spec_of(tmp_path / "my model", "sdxl", base=tiny_models / "sdxl")
    assert sources(checkpoint) == [tmp_path / "my model" / "model.safetensors"]
    vae = tiny_models / "sdxl" / "vae"
    assert sources(checkpoint.model_copy(update={"vae": vae})) == [vae, *sources(checkpoint)]


def test_a_broken_file_counts_as_it_lies_there(spec: ModelSpec):
    for name, content in (("transformer", b"<html>"), ("vae", bytes(20))):
        (spec.folder / name / "model.safetensors").write_bytes(content)
    assert weights_bytes(spec, Shelf()) == 6 + 20


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("sd15", "float32"), ("sd15", "bfloat16"), ("sdxl", "float32"), ("sd3", "bfloat16")],
)
def test_it_is_about_what_is_taken(tiny_models: Path, family: str, dtype: str):
    spec = spec_of(tiny_models / family, family).model_copy(update={"dtype": dtype})
    residents = Residents("cpu", 10**12)
    residents.load(spec)
    assert weights_bytes(spec, Shelf()) == pytest.approx(residents.used_bytes(), rel=0.05)
