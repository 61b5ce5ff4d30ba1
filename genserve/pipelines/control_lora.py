"""Control-LoRAs: small files that have a base transformer follow a picture, as FLUX.1 Depth does.

Such a file (Black Forest Labs' FLUX.1-Depth-dev-lora, what diffusers' own training saves, the tiny
family's) widens the transformer's input, so that tokens come with the control picture's beside
them, and adds low-rank changes to its layers. Here it is merged into a base that was read for it
alone: what comes out is a transformer as if it had been shipped whole, which LoRAs go on top of.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import FluxControlPipeline, FluxTransformer2DModel
from safetensors import SafetensorError, safe_open

from genserve.pipelines.base import BrokenModel

_INPUTS = ("x_embedder", "img_in")
"""What diffusers and the model's authors call the layer that takes the tokens in."""
_OTHERS = ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


class _Loader(FluxControlPipeline):  # type: ignore[misc] # untyped base
    """Reads Control-LoRAs into its transformer. There is no text encoder to look for layers of."""

    @classmethod
    def load_lora_into_text_encoder(cls, *_: Any, **__: Any) -> None:
        """Nothing."""


def is_control_lora(file: Path) -> bool:
    """Whether a weights file is a Control-LoRA: it changes the input by low rank. By its header."""
    if file.suffix != ".safetensors":
        return False
    try:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
    except SafetensorError:
        return False  # whoever reads it as a transformer says what is wrong
    return any(f"{layer}.lora_A.weight" in name for name in names for layer in _INPUTS)


def read(base: Path, file: Path, dtype: torch.dtype) -> Any:
    """The transformer in the folder `base` with the Control-LoRA in it.

    Raises `BrokenModel` when the file does not fit, or what the libraries raise.
    """
    transformer = FluxTransformer2DModel.from_pretrained(
        base, local_files_only=True, use_safetensors=True, dtype=dtype
    )
    pipe = _Loader(transformer=transformer, **dict.fromkeys(_OTHERS))
    try:
        pipe.load_lora_weights(file.parent, weight_name=file.name, local_files_only=True)
    except (KeyError, RuntimeError, ValueError) as error:  # other layers, or layers of other sizes
        raise BrokenModel(f"{file.name} does not fit the base: {error}") from None
    # Norms come whole in the authors' files; the library would put the base's back on unloading
    transformer._transformer_norm_layers = None
    pipe.fuse_lora(components=["transformer"])
    pipe.unload_lora_weights()
    return transformer
