"""How a model is kept in memory changes where its weights are, and hardly what it draws.

On a CPU, with the CPU itself standing in for the device that weights are brought to: the hooks are
the real ones. What needs a GPU is in tests/gpu.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from PIL import Image, ImageChops
from safetensors.torch import load_file, save_file

from genserve.domain.model import ModelSpec, Offload
from genserve.pipelines import offloading
from genserve.pipelines.base import BrokenModel, Cancelled
from genserve.pipelines.flux import Flux
from genserve.pipelines.placement import Placement, dtype_of, offload_of
from genserve.pipelines.shelf import Shelf
from tests.pipelines.conftest import Watcher, request
from tests.pipelines.flux_family import FluxFamily

FP8 = torch.float8_e4m3fn


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def loaded(spec: ModelSpec, shelf: Shelf | None = None) -> Flux:
    flux = Flux()
    flux.load(spec, "cpu", shelf or Shelf())
    return flux


def placed(spec: ModelSpec, offload: Offload) -> Flux:
    """As `Flux.load` does on a GPU, with the CPU in its place."""
    flux, shelf = Flux(), Shelf()
    flux.load(spec, "cpu", shelf)
    flux._offload = offload
    for network in flux.parts().values():
        offloading.place(network, "cpu", offload)
    return flux


def drawn(flux: Flux, hook: Watcher | None = None, **changes: Any) -> Image.Image:
    return flux.generate(request(**changes), 1, {}, hook or Watcher())


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean over pixels and colours, 0-255."""
    pixels = ImageChops.difference(one, other).tobytes()
    return sum(pixels) / len(pixels)


def is_hooked(network: Any) -> bool:
    return any(hasattr(module, "_hf_hook") for module in network.modules())


def on_meta(flux: Flux) -> bool:
    """Whether some weights are elsewhere while nothing is drawn."""
    return any(w.is_meta for part in flux.parts().values() for w in part.parameters())


# What is chosen


def test_numbers_are_the_devices_own_unless_the_configuration_says_otherwise(family: FluxFamily):
    spec = family.base()
    assert dtype_of(spec, "cpu") is torch.float32
    assert dtype_of(spec, "cuda") is torch.bfloat16
    half = spec.model_copy(update={"dtype": "float16"})
    assert dtype_of(half, "cpu") is dtype_of(half, "cuda") is torch.float16


def test_a_cpu_has_nothing_to_offload_from(family: FluxFamily):
    spec = family.base().model_copy(update={"offload": "sequential"})
    assert offload_of(spec, "cuda") == "sequential"
    assert offload_of(spec, "cpu") == "none"
    flux = loaded(spec)
    assert not on_meta(flux)
    assert flux.offloaded("model") is None


@pytest.mark.parametrize("offload", ["none", "model"])
def test_nf4_needs_a_gpu_and_bitsandbytes(family: FluxFamily, offload: str):
    spec = family.base().model_copy(update={"quantization": "nf4", "offload": offload})
    with pytest.raises(BrokenModel, match="nf4 needs an NVIDIA GPU"):
        Placement.of(spec, "cpu", Shelf(), "user")


def test_each_way_to_keep_it_is_a_form_of_its_own(family: FluxFamily):
    """What lies in memory as fp8 must not be lent to a model that wants it whole; a VAE may be."""
    shelf, spec = Shelf(), family.base()
    whole, small = loaded(spec, shelf), loaded(_fp8(spec), shelf)
    assert whole.parts()["transformer"] is not small.parts()["transformer"]
    assert whole.parts()["text_encoder_2"] is not small.parts()["text_encoder_2"]
    assert whole.parts()["vae"] is small.parts()["vae"]


# Offloading


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_offloading_changes_no_pixel(family: FluxFamily, offload: Offload):
    plain = drawn(loaded(family.base())).tobytes()
    flux = placed(family.base(), offload)
    assert on_meta(flux) is (offload == "sequential")
    for _ in range(2):
        assert drawn(flux).tobytes() == plain
    assert on_meta(flux) is (offload == "sequential")


@pytest.mark.parametrize("kind", ["openpose", "redux"])
@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_offloading_reaches_every_network(family: FluxFamily, kind: str, offload: Offload):
    from tests.pipelines.test_flux_modes import CASES, asks  # the same requests

    spec = getattr(family, kind)()
    mode, roles = next((mode, roles) for name, mode, roles in CASES if name == kind)
    picture = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
    inputs = dict.fromkeys(roles, picture)
    plain = loaded(spec).generate(asks(mode), 1, inputs, Watcher())
    drawn = placed(spec, offload).generate(asks(mode), 1, inputs, Watcher())
    assert drawn.tobytes() == plain.tobytes()


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_a_cancelled_picture_leaves_no_trace(family: FluxFamily, offload: Offload):
    flux = placed(family.base(), offload)
    before = drawn(flux).tobytes()
    with pytest.raises(Cancelled):
        drawn(flux, Watcher(cancel_at=2))
    if offload == "model":
        assert not any(is_hooked(part) for part in flux.parts().values())
    assert drawn(flux).tobytes() == before


def rungs(flux: Flux, now: Offload, wanted: Offload) -> Any:
    return offloading.moved_out(lambda: flux.parts().values(), "cpu", now, wanted)


@pytest.mark.parametrize(
    ("now", "wanted"), [("none", "model"), ("none", "sequential"), ("model", "sequential")]
)
def test_the_ladder_takes_weights_out_and_brings_them_back(
    family: FluxFamily, now: Offload, wanted: Offload
):
    flux = placed(family.base(), now)
    before = drawn(flux).tobytes()
    held = rungs(flux, now, wanted)
    with flux._waiting(held, wanted):
        assert flux._offload == wanted
        assert on_meta(flux) is (wanted == "sequential")
        assert drawn(flux).tobytes() == before
    assert flux._offload == now
    assert not on_meta(flux)
    assert not any(is_hooked(part) for part in flux.parts().values())
    assert drawn(flux).tobytes() == before


def test_one_rung_after_the_other(family: FluxFamily):
    flux = placed(family.base(), "none")
    before = drawn(flux).tobytes()
    with flux._waiting(rungs(flux, "none", "model"), "model"):
        with flux._waiting(rungs(flux, "model", "sequential"), "sequential"):
            assert drawn(flux).tobytes() == before
        assert flux._offload == "model"
        assert drawn(flux).tobytes() == before
    assert drawn(flux).tobytes() == before


@pytest.mark.parametrize(
    ("now", "wanted"),
    [
        ("model", "model"),
        ("group", "model"),
        ("group", "sequential"),
        ("sequential", "model"),
        ("sequential", "sequential"),
        ("none", "none"),
    ],
)
def test_a_rung_that_saves_nothing_is_none(family: FluxFamily, now: Offload, wanted: Offload):
    assert rungs(loaded(family.base()), now, wanted) is None


class Movable(torch.nn.Module):
    """Says where it was brought to last; there is no second device here."""

    place = "cuda"

    def to(self, device: str) -> "Movable":  # type: ignore[override]
        self.place = device
        return self


def test_what_is_read_while_others_wait_outside_comes_to_the_device_with_them():
    """A ControlNet, which `model` offloading leaves in CPU memory after its picture."""
    networks = [Movable()]
    held = offloading.moved_out(lambda: networks, "cuda", "none", "model")
    assert held is not None
    with held:
        assert [network.place for network in networks] == ["cpu"]
        networks.append(Movable().to("cpu"))
    assert [network.place for network in networks] == ["cuda", "cuda"]


# fp8


def _fp8(spec: ModelSpec) -> ModelSpec:
    return spec.model_copy(update={"quantization": "fp8"})


def test_fp8_makes_large_networks_smaller_and_draws_nearly_the_same(family: FluxFamily):
    whole, small = loaded(family.base()), loaded(_fp8(family.base()))
    for name in ("transformer", "text_encoder_2"):
        sizes = [_bytes(flux.parts()[name]) for flux in (whole, small)]
        assert sizes[1] < 0.6 * sizes[0], name  # norms, embeddings and `wo` stay as they are
        assert any(weight.dtype is FP8 for weight in small.parts()[name].parameters())
    for name in ("vae", "text_encoder"):
        assert {weight.dtype for weight in small.parts()[name].parameters()} == {torch.float32}
    plain, other = drawn(whole), drawn(small)
    assert other.tobytes() != plain.tobytes()
    assert difference(other, plain) < 0.3 * difference(drawn(whole, prompt="a lake"), plain) + 4
    assert drawn(small).tobytes() == other.tobytes()


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_fp8_can_wait_outside_too(family: FluxFamily, offload: Offload):
    plain = drawn(loaded(_fp8(family.base()))).tobytes()
    assert drawn(placed(_fp8(family.base()), offload)).tobytes() == plain


def _bytes(network: Any) -> int:
    return sum(weight.numel() * weight.element_size() for weight in network.parameters())


# GGUF and other single files


@pytest.fixture(scope="module")
def quantised(family: FluxFamily, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model's transformer as GGUF: matrices in 8 bits, the rest whole."""
    folder = tmp_path_factory.mktemp("gguf") / "flux-q8"
    folder.mkdir()
    (source,) = (family.base().folder / "transformer").glob("*.safetensors")
    writer = gguf.GGUFWriter(folder / "flux-Q8_0.gguf", "flux")
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, weight in load_file(source).items():
        values = weight.float().numpy()
        if values.ndim == 2:
            packed = gguf.quants.quantize(values, kind)
            writer.add_tensor(name, packed, raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder


def test_a_gguf_transformer_on_a_base_draws_nearly_the_same(family: FluxFamily, quantised: Path):
    whole = loaded(family.base())
    small = loaded(family.spec("q8", folder=quantised, base=family.base().folder))
    assert _bytes(small.parts()["transformer"]) < 0.4 * _bytes(whole.parts()["transformer"])
    plain, other = drawn(whole), drawn(small)
    assert 0 < difference(other, plain) < 4
    assert drawn(small).tobytes() == other.tobytes()


def test_a_gguf_file_may_lie_in_a_whole_folder(family: FluxFamily, quantised: Path, tmp_path: Path):
    folder = tmp_path / "whole"
    shutil.copytree(family.base().folder, folder)
    for file in (folder / "transformer").glob("*.safetensors"):
        file.unlink()
    shutil.copy(quantised / "flux-Q8_0.gguf", folder / "transformer")
    whole = loaded(family.spec("whole", folder=folder))
    lent = loaded(family.spec("q8", folder=quantised, base=family.base().folder))
    assert drawn(whole).tobytes() == drawn(lent).tobytes()


def test_a_gguf_model_can_wait_outside_as_a_whole_only(family: FluxFamily, quantised: Path):
    spec = family.spec("q8", folder=quantised, base=family.base().folder)
    flux = loaded(spec)
    assert drawn(placed(spec, "model")).tobytes() == drawn(flux).tobytes()
    assert rungs(flux, "none", "sequential") is None
    for offload in ("group", "sequential"):
        placement = Placement.of(
            spec.model_copy(update={"offload": offload}), "cuda", Shelf(), "user"
        )
        with pytest.raises(BrokenModel, match="GGUF goes with offload none or model"):
            placement.read_file(None, quantised / "flux-Q8_0.gguf", quantised)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_gguf_file_that_is_cut_off_is_told_by_name(
    family: FluxFamily, quantised: Path, tmp_path: Path, share: float
):
    whole = (quantised / "flux-Q8_0.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(len(whole) * share)])
    spec = family.spec("cut", folder=tmp_path, base=family.base().folder)
    with pytest.raises(BrokenModel, match=r"cut\.gguf is no FluxTransformer2DModel, or"):
        loaded(spec)


def test_a_single_safetensors_transformer_draws_the_same(family: FluxFamily, tmp_path: Path):
    folder = tmp_path / "alone"
    folder.mkdir()
    (source,) = (family.base().folder / "transformer").glob("*.safetensors")
    shutil.copy(source, folder / "flux.safetensors")
    spec = family.spec("alone", folder=folder, base=family.base().folder)
    assert drawn(loaded(spec)).tobytes() == drawn(loaded(family.base())).tobytes()


def test_weights_that_a_single_file_lacks_are_never_made_up(family: FluxFamily, tmp_path: Path):
    folder = tmp_path / "lame"
    folder.mkdir()
    (source,) = (family.base().folder / "transformer").glob("*.safetensors")
    weights = load_file(source)
    del weights["proj_out.weight"]
    save_file(weights, folder / "flux.safetensors", {"format": "pt"})
    spec = family.spec("lame", folder=folder, base=family.base().folder)
    with pytest.raises(BrokenModel, match=r"flux\.safetensors is no FluxTransformer2DModel, or"):
        loaded(spec)


def test_a_folder_with_a_base_holds_one_transformer(family: FluxFamily, tmp_path: Path):
    (tmp_path / "two").mkdir()
    for name in ("a.gguf", "b.safetensors"):
        (tmp_path / "two" / name).write_bytes(b"")
    for folder in (tmp_path, tmp_path / "two"):
        spec = family.spec("none", folder=folder, base=family.base().folder)
        with pytest.raises(BrokenModel, match="must hold one transformer"):
            loaded(spec)


# Where weights lie


def test_weights_lie_where_every_process_has_them(family: FluxFamily, tmp_path: Path):
    """Files with headers of other lengths are mapped elsewhere, which rounds differently."""
    folder = tmp_path / "moved"
    shutil.copytree(family.base().folder, folder)
    for part in ("transformer", "vae"):
        (file,) = (folder / part).glob("*.safetensors")
        save_file(load_file(file), file, {"format": "pt", "note": "x" * 13})
    flux = loaded(family.spec("moved", folder=folder))
    weights = [w for part in flux.parts().values() for w in part.parameters()]
    assert {weight.data_ptr() % 64 for weight in weights} == {0}
    assert drawn(flux).tobytes() == drawn(loaded(family.base())).tobytes()
