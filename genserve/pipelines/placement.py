"""How a model is kept in memory: in which numbers, on which device, and how its networks are read.

Three choices of a model's configuration meet here. `dtype`: what it computes in. `quantization`:
how its large networks' weights are stored (fp8 with computing in `dtype`; nf4 by bitsandbytes, on
CUDA alone; a .gguf file in place of a network's .safetensors says for itself). `offload`: where
weights wait while they are not needed, see `offloading`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.hooks import apply_layerwise_casting

from genserve.domain.model import ModelSpec, Offload, Quantization
from genserve.pipelines import offloading, preview, random_weights, weight_files
from genserve.pipelines.base import BrokenModel, DeviceKind
from genserve.pipelines.shelf import Shelf

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_AUTO_DTYPE: dict[DeviceKind, str] = {"cuda": "bfloat16", "cpu": "float32"}
_KEPT_WHOLE = ("norm", "pos_embed", "patch_embed", r"^proj_in$", r"^proj_out$", r"\.wo$")
"""Modules that fp8 leaves alone: what diffusers leaves alone, and T5's `wo`, whose weight's dtype
transformers looks at before each use."""

_CACHE_LINE = 64
"""Bytes: torch's allocator begins every tensor at a multiple of it."""


def dtype_of(spec: ModelSpec, device: DeviceKind) -> torch.dtype:
    """The numbers a model computes in; "auto" is what the device is fastest with."""
    return _DTYPES[_AUTO_DTYPE[device] if spec.dtype == "auto" else spec.dtype]


def offload_of(spec: ModelSpec, device: DeviceKind) -> Offload:
    """Where weights wait; on a CPU they are at home already, so there is nothing to offload."""
    return "none" if device == "cpu" else spec.offload


@dataclass(frozen=True, slots=True)
class Placement:
    """Reads the networks of one model, each in the way that the model is to be kept.

    Networks come from the shelf, where `user` stands for the model. `offload` is what is really
    done, see `offload_of`.
    """

    shelf: Shelf
    user: object
    device: DeviceKind
    dtype: torch.dtype
    quantization: Quantization
    offload: Offload
    random_weights: bool = False
    """Read no weights but make them up, by the folders' configurations: for benchmarks."""

    @classmethod
    def of(cls, spec: ModelSpec, device: DeviceKind, shelf: Shelf, user: object) -> "Placement":
        """As the spec says. Raises `BrokenModel` where this machine cannot do that."""
        offload = offload_of(spec, device)
        _check(spec.quantization, device, offload)
        made_up = bool(spec.options.get("random_weights", False))
        dtype = dtype_of(spec, device)
        return cls(shelf, user, device, dtype, spec.quantization, offload, made_up)

    def read(self, network: Any, folder: Path, *, large: bool = False) -> Any:
        """The network of that class in that folder, in place; `large` ones are quantised.

        Raises `BrokenModel` when the folder or some of its weights are missing, or what the
        libraries raise.
        """
        quantization = self.quantization if large else "none"
        if self.random_weights:
            return self._make_up(network, folder, quantization)
        return self._take(
            folder, quantization, lambda: _from_folder(network, folder, self.dtype, quantization)
        )

    def read_file(self, network: Any, file: Path, config: Path) -> Any:
        """The same from a single .gguf or .safetensors file; `config` is the folder of its kind.

        A GGUF file is quantised already: `quantization` does not count for it. Raises as `read`.
        """
        gguf = file.suffix == ".gguf"
        if gguf and self.offload in ("group", "sequential"):
            raise BrokenModel(f"{file.name}: GGUF goes with offload none or model, not with these")
        quantization = "none" if gguf else self.quantization
        return self._take(
            file, quantization, lambda: _from_file(network, file, config, self.dtype, quantization)
        )

    def make(self, source: Path, part: str, make: Callable[[], Any], *, large: bool = False) -> Any:
        """The network named `part` out of a file that holds several, which `make` reads.

        Raises `BrokenModel` for a way to keep it that such a file cannot be read in, or what
        `make` raises.
        """
        quantization = self.quantization if large else "none"
        if quantization == "nf4":
            raise BrokenModel(f"{source.name}: nf4 needs the model in diffusers' folder layout")

        def made() -> Any:
            return _cast(make(), self.dtype) if quantization == "fp8" else make()

        return self._take(source, quantization, made, part)

    def _make_up(self, network: Any, folder: Path, quantization: Quantization) -> Any:
        if quantization == "nf4":
            raise BrokenModel("nf4 is made from weights that are read; choose fp8 or none")
        device = self.device if self.offload == "none" else "cpu"

        def made() -> Any:
            made_up = random_weights.make(network, folder, self.dtype, device)
            return _cast(made_up, self.dtype) if quantization == "fp8" else made_up

        return self._take(folder, quantization, made, "random")

    def _take(
        self, source: Path, quantization: Quantization, make: Callable[[], Any], part: str = ""
    ) -> Any:
        form = f"{part} {self.device} {self.dtype} {quantization} {self.offload}"

        def placed() -> Any:
            network = _aligned(make())
            if self.offload != "none" and isinstance(network, diffusers.AutoencoderKL):
                preview.projection_of(network)  # now: from here on its weights come and go
            return offloading.place(network, self.device, self.offload)

        return self.shelf.take(self.user, source, form, placed)


def _check(quantization: Quantization, device: DeviceKind, offload: Offload) -> None:
    if quantization != "nf4":
        return
    if device != "cuda":
        raise BrokenModel("nf4 needs an NVIDIA GPU; set `quantization` to fp8 or none")
    if find_spec("bitsandbytes") is None:
        raise BrokenModel("nf4 needs bitsandbytes: run `pip install bitsandbytes`")
    if offload in ("group", "sequential"):
        raise BrokenModel("nf4 goes with offload none or model, not with group or sequential")


def _from_folder(network: Any, folder: Path, dtype: torch.dtype, quantization: Quantization) -> Any:
    shown = f"{folder.parent.name}/{folder.name}"
    if not folder.is_dir():
        raise BrokenModel(f"{shown} is missing")
    if files := sorted(folder.glob("*.gguf")):
        return _from_file(network, files[0], folder, dtype, "none")
    options: dict[str, Any] = {"variant": weight_files.variant_of(folder)}
    if quantization == "nf4":
        options["quantization_config"] = _nf4(network, dtype)
    read, told = network.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        dtype=dtype,
        output_loading_info=True,
        **options,
    )
    # Left to themselves the libraries fill up what is missing with random numbers.
    for what in ("missing_keys", "mismatched_keys"):
        if told[what]:
            absent = sorted(map(str, told[what]))[0]
            raise BrokenModel(f"{shown} lacks weights, such as {absent}; download it again")
    return _cast(read, dtype) if quantization == "fp8" else read


def _from_file(
    network: Any, file: Path, config: Path, dtype: torch.dtype, quantization: Quantization
) -> Any:
    options: dict[str, Any] = {}
    if file.suffix == ".gguf":
        options["quantization_config"] = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
    elif quantization == "nf4":
        options["quantization_config"] = _nf4(network, dtype)
    try:
        read = network.from_single_file(
            str(file), config=str(config), local_files_only=True, dtype=dtype, **options
        )
    except (KeyError, IndexError, NotImplementedError, ValueError, OSError):
        # names that the library's translation looks for, weights without a value, other shapes, a
        # file that ends too early
        raise BrokenModel(f"{file.name} is no {network.__name__}, or lacks weights") from None
    for name, weight in read.named_parameters():
        if weight.is_meta:  # the library leaves what the file lacks without a value
            raise BrokenModel(f"{file.name} lacks weights, such as {name}; download it again")
    return _cast(read, dtype) if quantization == "fp8" else read


def _aligned(network: Any) -> Any:
    """Weights where the allocator puts them, not where a file happens to have them.

    A CPU rounds differently when its vectors do not begin at whole cache lines. Files are mapped
    into memory, and their headers differ in length: two models with equal weights would draw
    pictures that differ in their last bit, and which one's file is read is decided by chance.
    """
    for weight in [*network.parameters(), *network.buffers()]:
        if weight.device.type == "cpu" and weight.data_ptr() % _CACHE_LINE:
            weight.data = weight.data.clone()
    return network


def _cast(network: Any, dtype: torch.dtype) -> Any:
    """Weights wait as 8-bit floats; each layer's are widened for as long as it computes."""
    apply_layerwise_casting(
        network,
        storage_dtype=torch.float8_e4m3fn,
        compute_dtype=dtype,
        skip_modules_pattern=_KEPT_WHOLE,
        # transformers takes a network's first weight for its dtype, and a T5's is an embedding
        skip_modules_classes=(torch.nn.Embedding,),
    )
    return network


def _nf4(network: Any, dtype: torch.dtype) -> Any:
    """Both libraries have a class of that name, and each knows only its own networks."""
    library = transformers if network.__module__.startswith("transformers.") else diffusers
    return library.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )
