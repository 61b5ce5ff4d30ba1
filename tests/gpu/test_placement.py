"""What a model's weights do on a real GPU: offloading, quantising, and coming back."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from genserve.domain.model import ModelSpec, Offload
from genserve.pipelines.base import BrokenModel
from genserve.workers.devices import installed_gpus
from tests.pipelines.conftest import TINY, Watcher, request

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not installed_gpus(), reason="there is no NVIDIA GPU"),
]
OFFLOADS: tuple[Offload, ...] = ("model", "group", "sequential")


def loaded(**changes: Any) -> Any:
    from genserve.pipelines.flux import Flux
    from genserve.pipelines.shelf import Shelf

    values = {"id": "tiny", "family": "flux", "folder": Path(TINY)}
    flux, shelf = Flux(), Shelf("cuda")
    flux.load(ModelSpec.model_validate(values | changes), "cuda", shelf)
    return flux


def drawn(flux: Any) -> Image.Image:
    image: Image.Image = flux.generate(request(width=128, height=128), 1, {}, Watcher())
    return image


def on_gpu(flux: Any) -> set[str]:
    return {w.device.type for part in flux.parts().values() for w in part.parameters()}


@pytest.mark.parametrize("offload", OFFLOADS)
def test_offloading_changes_no_pixel_and_takes_no_memory_between_pictures(offload: Offload):
    plain = loaded()
    assert on_gpu(plain) == {"cuda"}
    assert plain.size_bytes() > 0
    flux = loaded(offload=offload)
    assert flux.size_bytes() == 0
    assert drawn(flux).tobytes() == drawn(plain).tobytes()
    assert drawn(flux).tobytes() == drawn(plain).tobytes()
    assert flux.size_bytes() == 0


@pytest.mark.parametrize("how", ["model", "sequential"])
def test_the_ladder_empties_the_gpu_and_fills_it_again(how: Offload):
    flux = loaded()
    before = drawn(flux).tobytes()
    held = flux.offloaded(how)
    assert held is not None
    with held:
        assert "cuda" not in on_gpu(flux)
        assert drawn(flux).tobytes() == before
    assert on_gpu(flux) == {"cuda"}
    assert drawn(flux).tobytes() == before


def test_fp8_takes_less_memory_and_draws():
    whole, small = loaded(), loaded(quantization="fp8")
    assert small.size_bytes() < whole.size_bytes()
    assert drawn(small).size == (128, 128)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("offload", ["none", "model"])
def test_nf4_takes_less_memory_and_draws(offload: Offload):
    small = loaded(quantization="nf4", offload=offload)
    transformer = small.parts()["transformer"]
    assert any(hasattr(weight, "quant_state") for weight in transformer.parameters())
    assert drawn(small).tobytes() == drawn(small).tobytes()
    assert small.offloaded("sequential") is None


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_nf4_without_bitsandbytes_is_told():
    with pytest.raises(BrokenModel, match="pip install bitsandbytes"):
        loaded(quantization="nf4")


def test_real_lack_of_memory_is_met_by_the_ladder():
    """A picture whose decoding does not fit beside the weights is drawn all the same."""
    import torch

    from genserve.pipelines.cache import Residents
    from genserve.pipelines.ladder import Ladder
    from genserve.pipelines.shelf import Shelf
    from genserve.workers.rungs import rungs

    residents = Residents("cuda", 10**12, Shelf("cuda"))
    spec = ModelSpec.model_validate({"id": "tiny", "family": "flux", "folder": Path(TINY)})
    flux = residents.load(spec)
    large = request(width=2048, height=2048, steps=1)

    def draw() -> Image.Image:
        return flux.generate(large, 1, {}, Watcher())

    whole = _peak_bytes(draw)
    tiling = flux.low_memory()
    assert tiling is not None
    with tiling:
        tiled = _peak_bytes(draw)
    assert tiled < 0.8 * whole, "tiling saves too little to tell the two apart"
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((whole + tiled) / 2 / total)
    try:
        with Ladder(rungs(residents, flux, spec.id)) as ladder:
            assert ladder.run(draw).size == (2048, 2048)
            assert ladder.taken[0].code == "vae_tiling"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _peak_bytes(draw: Callable[[], object]) -> int:
    """What drawing takes of the GPU's memory at most."""
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    draw()
    return torch.cuda.max_memory_reserved()
