"""Control-LoRAs: a small file beside a base makes a model that follows a picture, or fills."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from genserve.domain.model import ModelSpec
from genserve.domain.request import ImageRole, Mode
from genserve.pipelines.base import BrokenModel
from genserve.pipelines.control_lora import is_control_lora, read
from genserve.pipelines.flux import Flux
from genserve.pipelines.flux_loading import Kind
from genserve.pipelines.shelf import Shelf
from tests.pipelines.conftest import Watcher, request
from tests.pipelines.flux_family import FluxFamily

RANK = 4
BLOCK = "transformer_blocks.0.attn.to_q"
NORM = "transformer_blocks.0.attn.norm_q.weight"
FILE = {"sha256": "0" * 64, "media_type": "image/png", "width": 64, "height": 64, "size_bytes": 1}


def factors(width: int, columns: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(columns)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    return {
        "transformer.x_embedder.lora_A.weight": some(RANK, columns),
        "transformer.x_embedder.lora_B.weight": some(width, RANK),
        f"transformer.{BLOCK}.lora_A.weight": some(RANK, width),
        f"transformer.{BLOCK}.lora_B.weight": some(width, RANK),
    }


def save(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "pytorch_lora_weights.safetensors", metadata={"format": "pt"})
    return folder / "pytorch_lora_weights.safetensors"


@pytest.fixture
def base(family: FluxFamily) -> Path:
    return family.base().folder


def weights_of(base: Path) -> dict[str, torch.Tensor]:
    file = base / "transformer" / "diffusion_pytorch_model.safetensors"
    weights: dict[str, torch.Tensor] = load_file(file)
    return weights


def spec(folder: Path, base: Path) -> ModelSpec:
    return ModelSpec(id="guided", family="flux", folder=folder, base=base)


def loaded(folder: Path, base: Path) -> Flux:
    flux = Flux()
    flux.load(spec(folder, base), "cpu", Shelf())
    return flux


def test_merged_weights_are_the_base_s_and_the_change(base: Path, tmp_path: Path) -> None:
    own = weights_of(base)
    width = own["x_embedder.weight"].shape[0]
    tensors = factors(width, 128)
    merged = read(base / "transformer", save(tensors, tmp_path), torch.float32).state_dict()
    change = {
        name: tensors[f"transformer.{name}.lora_B.weight"]
        @ tensors[f"transformer.{name}.lora_A.weight"]
        for name in ("x_embedder", BLOCK)
    }
    wide = torch.zeros(width, 128)
    wide[:, :64] = own["x_embedder.weight"]
    torch.testing.assert_close(merged["x_embedder.weight"], wide + change["x_embedder"])
    torch.testing.assert_close(merged[f"{BLOCK}.weight"], own[f"{BLOCK}.weight"] + change[BLOCK])
    changed = {"x_embedder.weight", f"{BLOCK}.weight"}
    assert merged.keys() == own.keys()
    assert all(torch.equal(merged[name], own[name]) for name in own.keys() - changed)


def test_whole_norms_stay(base: Path, tmp_path: Path) -> None:
    """As in the files of FLUX.1 Depth and Canny."""
    own = weights_of(base)
    tensors = factors(own["x_embedder.weight"].shape[0], 128)
    tensors[f"transformer.{NORM}"] = torch.full_like(own[NORM], 3.0)
    merged = read(base / "transformer", save(tensors, tmp_path), torch.float32)
    assert torch.equal(merged.state_dict()[NORM], tensors[f"transformer.{NORM}"])


@pytest.mark.parametrize(("columns", "kind"), [(128, Kind.CONTROL), (384, Kind.FILL)])
def test_model_draws_with_it(base: Path, tmp_path: Path, columns: int, kind: Kind) -> None:
    width = weights_of(base)["x_embedder.weight"].shape[0]
    save(factors(width, columns), tmp_path)
    flux = loaded(tmp_path, base)
    assert flux._loaded.kind is kind
    picture = Image.linear_gradient("L").resize((64, 64))
    if kind is Kind.CONTROL:
        images: list[Any] = [{"file": FILE, "role": "control", "control": {"type": "depth"}}]
        asked = request(mode=Mode.CONTROLNET, images=images)
        inputs = {ImageRole.CONTROL: picture.convert("RGB")}
    else:
        asked = request(mode=Mode.FILL, strength=1.0)
        inputs = {ImageRole.INIT: picture.convert("RGB"), ImageRole.MASK: picture}
    first = flux.generate(asked, 1, inputs, Watcher())
    turned = {role: image.rotate(90) for role, image in inputs.items()}
    assert first.tobytes() == flux.generate(asked, 1, inputs, Watcher()).tobytes()
    assert first.tobytes() != flux.generate(asked, 1, turned, Watcher()).tobytes()


def test_base_on_the_same_shelf_is_left_alone(
    family: FluxFamily, base: Path, tmp_path: Path
) -> None:
    shelf, plain, guided = Shelf(), Flux(), Flux()
    plain.load(family.base(), "cpu", shelf)
    asked = request()
    before = plain.generate(asked, 1, {}, Watcher()).tobytes()
    width = weights_of(base)["x_embedder.weight"].shape[0]
    save(factors(width, 128), tmp_path)
    guided.load(spec(tmp_path, base), "cpu", shelf)
    assert plain.generate(asked, 1, {}, Watcher()).tobytes() == before
    assert plain.parts()["vae"] is guided.parts()["vae"]
    assert plain.parts()["transformer"] is not guided.parts()["transformer"]


def test_file_for_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    width = weights_of(base)["x_embedder.weight"].shape[0]
    save(factors(width + 8, 128), tmp_path)
    with pytest.raises(BrokenModel, match=r"weights\.safetensors does not fit the base"):
        loaded(tmp_path, base)


def test_only_what_changes_the_input_is_one(base: Path, tmp_path: Path) -> None:
    tensors = factors(32, 128)
    assert is_control_lora(save(tensors, tmp_path / "control"))
    plain = {name: tensor for name, tensor in tensors.items() if "x_embedder" not in name}
    assert not is_control_lora(save(plain, tmp_path / "plain"))
    assert not is_control_lora(base / "transformer" / "diffusion_pytorch_model.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no header")
    assert not is_control_lora(broken)
