"""LoRAs on weights that lie on a GPU, or wait beside it. Skipped where NVML finds none."""

from pathlib import Path

import pytest
import torch

from genserve.domain.model import Offload
from genserve.pipelines.offloading import place
from genserve.workers.devices import installed_gpus
from tests.pipelines import loras
from tests.pipelines.loras import bits, wear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not installed_gpus(), reason="there is no NVIDIA GPU"),
]
PATHS = ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.proj_mlp")


@pytest.mark.parametrize("pristine_bytes", [0, 2**30], ids=["CPU copies", "GPU copies"])
@pytest.mark.parametrize("offload", ["none", "model", "group", "sequential"])
def test_a_network_wears_and_takes_off_wherever_its_weights_are(
    tmp_path: Path, offload: Offload, pristine_bytes: int
):
    plain, by = loras.flux(), loras.chance(1)
    file = loras.write(
        tmp_path / "a.safetensors", loras.diffusers_lora(plain, PATHS, "transformer.")
    )
    inputs = {
        name: value.to("cuda", torch.bfloat16) if value.is_floating_point() else value.cuda()
        for name, value in loras.flux_inputs(by).items()
    }
    expected = loras.flux().to(torch.bfloat16)
    wear(loras.wardrobe(), {"transformer": expected}, {"it": file}, it=0.7)
    network = place(loras.flux().to(torch.bfloat16), "cuda", offload)
    clothes = loras.wardrobe(device="cuda", pristine_bytes=pristine_bytes)
    if offload == "model":  # between pictures its weights lie in CPU memory
        before = bits(network)
        wear(clothes, {"transformer": network}, {"it": file}, it=0.7)
        assert bits(network) != before
        wear(clothes, {"transformer": network}, {"it": file})
        assert bits(network) == before
        return
    before_output = loras.output(network, inputs)
    wear(clothes, {"transformer": network}, {"it": file}, it=0.7)
    torch.testing.assert_close(
        loras.output(network, inputs), loras.output(expected.cuda(), inputs), atol=1e-2, rtol=1e-2
    )
    wear(clothes, {"transformer": network}, {"it": file})
    assert torch.equal(loras.output(network, inputs), before_output)
