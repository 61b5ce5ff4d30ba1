"""What is exported is what was trained: for every layout, the network with the file's change gives
what the network gave under training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxControlPipeline, FluxFillPipeline
from torch import Tensor, nn

from genserve.domain.request import LoraRef
from genserve.pipelines.wardrobe import Wardrobe
from genserve.store.lora_header import describe_lora
from genserve.store.safetensors_header import read_header
from train_tiny.adapters import dress
from train_tiny.flux_base import FluxBase, pack_mask
from train_tiny.flux_control import control_adapter, control_layers, widened
from train_tiny.lora_formats import DIFFUSERS_NAME, save_control_lora
from train_tiny.style_figures import source_of
from train_tiny.style_loras import STYLE_LORAS, StyleLora, dress_for, save_style

ROOT = Path(__file__).resolve().parents[2]
MODEL, LORAS = ROOT / "models" / "tiny-flux-dev", ROOT / "loras"
TOKENS = 64


@pytest.fixture(scope="module")
def base() -> FluxBase:
    return FluxBase(MODEL, torch.device("cpu"))


def roughened(worn: nn.ModuleDict) -> nn.ModuleDict:
    """As after some training: nothing that began at zero is zero, and all fits 16 bits."""
    generator = torch.Generator().manual_seed(0)
    for weight in worn.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.data = (weight.data + 0.05 * noise).half().float()
    return worn


def answer(network: Any, numbers: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    ids = torch.zeros(TOKENS, 3)
    ids[:, 1], ids[:, 2] = torch.arange(TOKENS) // 8, torch.arange(TOKENS) % 8
    with torch.no_grad():
        velocity: Tensor = network(
            hidden_states=torch.randn(1, TOKENS, numbers, generator=generator),
            encoder_hidden_states=torch.randn(1, 32, 128, generator=generator),
            pooled_projections=torch.randn(1, 64, generator=generator),
            timestep=torch.tensor([0.7]),
            guidance=torch.tensor([3.5]),
            img_ids=ids,
            txt_ids=torch.zeros(32, 3),
            return_dict=False,
        )[0]
    return velocity


@pytest.mark.parametrize(
    ("added", "kind"), [(64, FluxControlPipeline), (320, FluxFillPipeline)], ids=["control", "fill"]
)
def test_diffusers_reads_a_control_lora(
    base: FluxBase, tmp_path: Path, added: int, kind: Any
) -> None:
    trained = widened(base.transformer, added)
    worn = roughened(dress(trained, control_layers(trained), control_adapter))
    save_control_lora(worn, tmp_path)
    assert (tmp_path / DIFFUSERS_NAME).stat().st_size <= 2_000_000
    own = {"transformer": copy.deepcopy(base.transformer)}
    pipeline = kind(**(_flux_parts(base) | own))
    pipeline.load_lora_weights(tmp_path, weight_name=DIFFUSERS_NAME, local_files_only=True)
    assert pipeline.transformer.config.in_channels == 64 + added
    expected = answer(trained, 64 + added)
    torch.testing.assert_close(
        answer(pipeline.transformer, 64 + added), expected, atol=1e-3, rtol=1e-3
    )
    assert not torch.allclose(expected[..., :64], answer(base.transformer, 64), atol=1e-2)


def test_a_widened_input_changes_nothing_at_first(base: FluxBase) -> None:
    wide = widened(base.transformer, 64)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(2, TOKENS, 128, generator=generator)
    torch.testing.assert_close(
        wide.x_embedder(tokens), base.transformer.x_embedder(tokens[..., :64])
    )
    assert base.transformer.config.in_channels == 64


@pytest.mark.parametrize("lora", STYLE_LORAS, ids=lambda lora: lora.file)
def test_genserve_wears_each_layout(base: FluxBase, tmp_path: Path, lora: StyleLora) -> None:
    trained = copy.deepcopy(base.transformer)
    worn = roughened(dress_for(trained, lora))
    path = save_style(worn, lora, tmp_path)
    assert path.stat().st_size <= 600_000
    network = copy.deepcopy(base.transformer)
    Wardrobe("cpu", files_bytes=2**24).wear(
        {"transformer": network}, [LoraRef(name=path.stem)], {path.stem: source_of(path)}
    )
    torch.testing.assert_close(answer(network, 64), answer(trained, 64), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(answer(network, 64), answer(base.transformer, 64), atol=1e-2)


@pytest.mark.parametrize("lora", STYLE_LORAS, ids=lambda lora: lora.file)
def test_catalogue_knows_what_the_files_are(
    base: FluxBase, tmp_path: Path, lora: StyleLora
) -> None:
    path = save_style(dress_for(copy.deepcopy(base.transformer), lora), lora, tmp_path)
    told = describe_lora(path.stem, read_header(path))
    assert told.base == "flux"
    assert told.rank == lora.rank
    assert told.kind == ("loha" if lora.kind == "loha" else "lora")
    assert told.trigger_words == ()  # the styles need none


@pytest.mark.parametrize("lora", STYLE_LORAS, ids=lambda lora: lora.file)
def test_shipped_loras_say_of_themselves_what_training_writes(
    base: FluxBase, tmp_path: Path, lora: StyleLora
) -> None:
    path = save_style(dress_for(copy.deepcopy(base.transformer), lora), lora, tmp_path)
    shipped = LORAS / lora.file
    written, told = read_header(path), read_header(shipped)
    assert told.metadata == written.metadata
    assert told.shapes == written.shapes
    assert describe_lora(shipped.stem, told).trigger_words == ()


def test_masks_are_packed_as_diffusers_packs_them(base: FluxBase) -> None:
    generator = torch.Generator().manual_seed(2)
    masks = (torch.rand(2, 1, 96, 128, generator=generator) < 0.5).float()
    pictures = torch.rand(2, 3, 96, 128, generator=generator) * 2 - 1
    pipeline = FluxFillPipeline(**_flux_parts(base))
    packed, _ = pipeline.prepare_mask_latents(
        masks, pictures, 2, 16, 1, 96, 128, torch.float32, torch.device("cpu"), None
    )
    assert torch.equal(pack_mask(masks), packed)


def _flux_parts(base: FluxBase) -> dict[str, Any]:
    """The components that every Flux pipeline has."""
    known = base.pipeline.components.items()
    return {
        name: part for name, part in known if name not in ("image_encoder", "feature_extractor")
    }
