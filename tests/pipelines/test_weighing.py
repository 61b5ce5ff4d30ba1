"""What a model will take: told before it is read, close to what it then takes."""

from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from genserve.domain.model import ModelSpec
from genserve.pipelines.cache import Residents
from genserve.pipelines.shelf import Shelf
from genserve.pipelines.weighing import weights_bytes
from tests.pipelines.diffusion_models import spec_of

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
