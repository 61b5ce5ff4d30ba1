"""Model folders as operators leave them: whole, half downloaded, or with code inside."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from genserve.store.weights import ModelFolder, scan_model
from tests.store.tensors import safetensors

TINY = Path(__file__).parents[2] / "models" / "tiny-flux-dev"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model in diffusers' layout."""
    folder = tmp_path / "models" / "flux1-dev"
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "FluxPipeline",
            "_diffusers_version": "0.42.1",
            "image_encoder": [None, None],
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "transformer": ["diffusers", "FluxTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    write_json(folder / "scheduler" / "scheduler_config.json", {})
    write_json(folder / "tokenizer" / "tokenizer_config.json", {})
    for name in ("transformer", "vae"):
        write_json(folder / name / "config.json", {})
        safetensors(folder / name / "diffusion_pytorch_model.safetensors", {"a": (2, 3)})
    (folder / "README.md").write_text("hello")
    return folder


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_the_shipped_model_is_whole() -> None:
    found = scan_model(TINY)
    assert (found.present, found.problem) == (True, None)
    assert found.native_pixels == 128 * 128
    assert (128, 128) in found.buckets
    assert found.multiple_of == 16
    assert len(found.revision) == 16


def test_a_folder_that_is_missing_or_empty(tmp_path: Path) -> None:
    assert scan_model(tmp_path / "none") == ModelFolder(present=False)
    assert scan_model(tmp_path) == ModelFolder(present=False)


def test_a_whole_model_without_settings_of_ours(model: Path) -> None:
    found = scan_model(model)
    assert (found.present, found.problem) == (True, None)
    assert (found.native_pixels, found.buckets, found.multiple_of) == (None, (), None)


def test_a_linked_model_folder_is_as_good_as_its_target(model: Path, tmp_path: Path) -> None:
    link = tmp_path / "linked"
    link.symlink_to(model)
    assert scan_model(link).problem is None
    (model / "vae" / "weights.safetensors").symlink_to("diffusion_pytorch_model.safetensors")
    assert scan_model(model).problem is None


def test_the_revision_follows_the_weights_and_nothing_else(model: Path, tmp_path: Path) -> None:
    before = scan_model(model).revision
    shutil.copytree(model, tmp_path / "copy" / "other-name")
    assert scan_model(tmp_path / "copy" / "other-name").revision == before
    safetensors(model / "vae" / "diffusion_pytorch_model.safetensors", {"a": (3, 2)})
    assert scan_model(model).revision != before


def truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


VAE = Path("vae/diffusion_pytorch_model.safetensors")
BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (
        lambda m: (m / "model_index.json").unlink(),
        "flux1-dev/model_index.json is missing; download the whole model",
    ),
    "index is not JSON": (
        lambda m: (m / "model_index.json").write_text("<html>"),
        "flux1-dev/model_index.json is not JSON; download it again",
    ),
    "index of another kind": (
        lambda m: (m / "model_index.json").write_text("[1]"),
        "flux1-dev/model_index.json is broken; download it again",
    ),
    "index too deep": (
        lambda m: (m / "model_index.json").write_text("[" * 100_000),
        "flux1-dev/model_index.json is not JSON; download it again",
    ),
    "index names nothing": (
        lambda m: (m / "model_index.json").write_text("{}"),
        "flux1-dev/model_index.json names no pipeline; download it again",
    ),
    "index names a library of its own": (
        lambda m: write_json(
            m / "model_index.json", {"_class_name": "X", "vae": ["my_pipeline", "Evil"]}
        ),
        "flux1-dev/model_index.json: vae is of my_pipeline, which is never run; use a model of"
        " diffusers' own pipelines",
    ),
    "index names a path": (
        lambda m: write_json(
            m / "model_index.json", {"_class_name": "X", "../vae": ["diffusers", "AutoencoderKL"]}
        ),
        "flux1-dev/../vae is missing; download the whole model",
    ),
    "component missing": (
        lambda m: shutil.rmtree(m / "vae"),
        "flux1-dev/vae is missing; download the whole model",
    ),
    "component without configuration": (
        lambda m: (m / "vae" / "config.json").unlink(),
        "flux1-dev/vae/config.json is missing; download it again",
    ),
    "component without weights": (
        lambda m: (m / VAE).unlink(),
        "flux1-dev/vae has no .safetensors weights; add them",
    ),
    "weights cut off": (
        lambda m: truncate(m / VAE, (m / VAE).stat().st_size - 5),
        f"flux1-dev/{VAE} is incomplete: 5 bytes are missing; download it again",
    ),
    "header cut off": (
        lambda m: truncate(m / VAE, 20),
        f"flux1-dev/{VAE} is incomplete; download it again",
    ),
    "nothing of the weights": (
        lambda m: truncate(m / VAE, 0),
        f"flux1-dev/{VAE} is not a safetensors file; download it again",
    ),
    "weights that are a page": (
        lambda m: (m / VAE).write_text("<!DOCTYPE html><html>not found</html>"),
        f"flux1-dev/{VAE} is not a safetensors file; download it again",
    ),
    "a shard missing": (
        lambda m: write_json(
            m / "vae" / "diffusion_pytorch_model.safetensors.index.json",
            {"weight_map": {"a": "part-1.safetensors"}},
        ),
        "flux1-dev/vae/part-1.safetensors is missing; download it again",
    ),
    "a pickle": (
        lambda m: (m / "vae" / "pytorch_model.bin").write_bytes(b"\x80\x04"),
        "flux1-dev/vae/pytorch_model.bin may run code; delete it and use safetensors weights",
    ),
    "a checkpoint": (
        lambda m: (m / "model.CKPT").write_bytes(b""),
        "flux1-dev/model.CKPT may run code; delete it and use safetensors weights",
    ),
    "code": (
        lambda m: (m / "transformer" / "modeling.py").write_text("import os"),
        "flux1-dev/transformer/modeling.py is code, which is never run; delete it",
    ),
    "settings of ours are wrong": (
        lambda m: write_json(m / "genserve.json", {"buckets": [[128, "x"]]}),
        "flux1-dev/genserve.json: native_pixels and multiple_of must be numbers and buckets a"
        " list of [width, height]",
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_what_is_wrong_is_named_with_its_remedy(model: Path, name: str) -> None:
    breakage, problem = BREAKAGES[name]
    breakage(model)
    found = scan_model(model)
    assert (found.present, found.problem, found.revision) == (True, problem, "")


def test_links_that_lead_outside_are_refused(model: Path, tmp_path: Path) -> None:
    outside = safetensors(tmp_path / "blob", {"a": (1,)})
    (model / VAE).unlink()
    (model / VAE).symlink_to(outside)
    problem = "is a link that leads outside; put the file itself there"
    assert scan_model(model).problem == f"flux1-dev/{VAE} {problem}"
    (model / VAE).unlink()
    (model / "cache").symlink_to(tmp_path)
    assert scan_model(model).problem == f"flux1-dev/cache {problem}"


def test_a_link_to_a_folder_inside_is_not_followed(model: Path) -> None:
    (model / "loop").symlink_to(model)
    assert scan_model(model).problem == (
        "flux1-dev/loop is a link to a folder; put the files themselves there"
    )


def test_settings_of_ours_are_read(model: Path) -> None:
    own = {"native_pixels": 16384, "buckets": [[128, 128], [176, 96]], "multiple_of": 8, "x": 1}
    write_json(model / "genserve.json", own)
    found = scan_model(model)
    assert (found.native_pixels, found.multiple_of) == (16384, 8)
    assert found.buckets == ((128, 128), (176, 96))
