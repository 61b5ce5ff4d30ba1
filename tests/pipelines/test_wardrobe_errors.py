"""LoRA files that cannot be used, and what stops half-way: nothing may be left of them."""

from pathlib import Path

import pytest
import torch

from genserve.domain.lora import LoraSource
from genserve.domain.request import LoraRef
from genserve.errors import LoraBroken, LoraDoesNotFit
from genserve.pipelines.base import Cancelled
from tests.pipelines import loras
from tests.pipelines.loras import bits, wear
from tests.pipelines.test_wardrobe import Q, files

__all__ = ["files"]


def broken(tmp_path: Path, tensors: loras.Tensors) -> dict[str, LoraSource]:
    return {"broken": loras.write(tmp_path / "broken.safetensors", tensors)}


def pair(layer: str, rows: int = 32, columns: int = 32) -> loras.Tensors:
    down, up = torch.ones(2, columns), torch.ones(rows, 2)
    return {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}


MISFITS = {
    "no such layer": (
        pair("transformer.transformer_blocks.9.attn.to_q"),
        "transformer.transformer_blocks.9.attn.to_q.lora_A.weight is for a layer that the model"
        " does not have",
    ),
    "too high": (
        pair(f"transformer.{Q}", rows=48),
        "makes a change of 48x32, but its layer is 32x32",
    ),
    "too wide": (pair(f"transformer.{Q}", columns=3072), "a change of 32x3072"),
    "no bias": (
        {"transformer.transformer_blocks.0.attn.norm_q.diff_b": torch.ones(16)},
        "is for the bias of transformer_blocks.0.attn.norm_q, which has none",
    ),
    "twice": (
        pair(f"transformer.{Q}") | pair("lora_unet_transformer_blocks_0_attn_to_q"),
        f"transformer.{Q}.lora_A.weight changes the same layer as"
        " lora_unet_transformer_blocks_0_attn_to_q.lora_A.weight",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_layer_that_does_not_fit_is_named_and_nothing_is_touched(
    files: dict[str, LoraSource], tmp_path: Path, name: str
):
    network, clothes = loras.flux(), loras.wardrobe()
    wear(clothes, {"transformer": network}, files, one=1.0)
    worn = bits(network)
    tensors, problem = MISFITS[name]
    with pytest.raises(LoraDoesNotFit) as refused:
        wear(
            clothes,
            {"transformer": network},
            files | broken(tmp_path, tensors),
            two=1.0,
            broken=1.0,
        )
    assert problem in refused.value.detail("en")
    assert refused.value.params["lora"] == "broken"
    assert bits(network) == worn
    wear(clothes, {"transformer": network}, files, one=1.0)


ILL = {
    "not finite": (
        pair("a") | {"a.lora_A.weight": torch.full((2, 2), float("nan"))},
        "broken.safetensors: a.lora_A.weight holds numbers that are not finite",
    ),
    "empty": (
        {"a.lora_A.weight": torch.ones(0, 4), "a.lora_B.weight": torch.ones(4, 0)},
        "a.lora_A.weight is empty",
    ),
    "not whole": ({"a.lora_A.weight": torch.ones(2, 4)}, "a.lora_A.weight is not whole"),
    "unknown": (pair("a") | {"a.dora_scale": torch.ones(4)}, "a.dora_scale is no part of a LoRA"),
    "ranks": (
        {"a.lora_A.weight": torch.ones(2, 4), "a.lora_B.weight": torch.ones(4, 3)},
        "a.lora_A.weight is 2x4, but should be 3 rows",
    ),
    "bias": (pair("a") | {"a.diff_b": torch.ones(4, 4)}, "a.diff_b is no bias"),
}


@pytest.mark.parametrize("name", ILL)
def test_a_file_that_is_no_lora_is_refused_by_its_first_wrong_tensor(tmp_path: Path, name: str):
    tensors, problem = ILL[name]
    with pytest.raises(LoraBroken) as refused:
        wear(loras.wardrobe(), {"transformer": loras.flux()}, broken(tmp_path, tensors), broken=1.0)
    assert problem in refused.value.detail("en")


def test_a_file_that_was_replaced_or_cut_off_since_is_refused(files: dict[str, LoraSource]):
    path = Path(files["one"].path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(LoraBroken, match=r"one\.safetensors was replaced after the task"):
        wear(loras.wardrobe(), {"transformer": loras.flux()}, files, one=1.0)
    cut = {"one": loras.source_of(path)}
    with pytest.raises(LoraBroken, match=r"one\.safetensors cannot be read"):
        wear(loras.wardrobe(), {"transformer": loras.flux()}, cut, one=1.0)


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("dressed", [False, True])
def test_what_stops_half_way_leaves_nothing_on(
    files: dict[str, LoraSource], at: int, dressed: bool
):
    network, clothes = loras.flux(), loras.wardrobe()
    plain, parts, checks = bits(network), {"transformer": network}, 0
    if dressed:
        wear(clothes, parts, files, two=1.0)

    def stop() -> None:
        nonlocal checks
        checks += 1
        if checks == at:
            raise Cancelled

    with pytest.raises(Cancelled):
        clothes.wear(parts, [LoraRef(name="one")], files, check=stop)
    assert bits(network) == plain
    assert clothes.outfit(parts) == ((),)
    wear(clothes, parts, files, one=1.0)
    other = loras.flux()
    wear(loras.wardrobe(), {"transformer": other}, files, one=1.0)
    assert bits(network) == bits(other)
