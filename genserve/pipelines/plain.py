"""diffusers' own pipeline as its documentation shows it: what a recipe's speed is measured against.

For `genserve bench --synthetic` alone. The networks are made up by the same configurations as the
recipe's, and in the same numbers; the pipeline's class is the one that the recipe draws with. All
else is the library's: it reads the prompt, steps, decodes, and gives a picture.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from PIL import Image

from genserve.domain.model import ModelSpec, Offload
from genserve.domain.request import GenerationRequest, ImageRole
from genserve.pipelines import random_weights
from genserve.pipelines.base import BrokenModel, DeviceKind, Hook, Stage
from genserve.pipelines.placement import dtype_of
from genserve.pipelines.shelf import Shelf

_PICTURES: dict[str, dict[str, ImageRole]] = {
    "FluxFillPipeline": {"image": ImageRole.INIT, "mask_image": ImageRole.MASK},
    "FluxControlPipeline": {"control_image": ImageRole.CONTROL},
    "FluxControlNetPipeline": {"control_image": ImageRole.CONTROL},
    "FluxKontextPipeline": {"image": ImageRole.REFERENCE},
}
"""By which names each pipeline takes its pictures; the others draw from text alone."""
_UNWANTED = {
    "safety_checker": None,
    "feature_extractor": None,
    "requires_safety_checker": False,
    "add_watermarker": False,
}
"""What some pipelines bring along beside the model, and the recipes leave out."""


class Plain:
    """One of diffusers' pipelines with made-up weights in memory."""

    distilled_guidance = False

    def __init__(self) -> None:
        self._pipe: Any = None
        self._prior: Any = None

    def load(self, spec: ModelSpec, device: DeviceKind, shelf: Shelf) -> None:
        """Make up the networks of the spec's folders. Nothing is shared, so the shelf is not used.

        Raises `BrokenModel` for a model with weights: a recipe draws that.
        """
        if not spec.options.get("random_weights", False):
            raise BrokenModel("family `diffusers` is for benchmarks and needs random_weights: true")

        def make(network: Any, folder: Path) -> Any:
            return random_weights.make(network, folder, dtype_of(spec, device), device)

        class_name, components = _components(spec.base or spec.folder, make)
        for folder in dict.fromkeys(spec.controls.values()):
            class_name = "FluxControlNetPipeline"
            components["controlnet"] = make(diffusers.FluxControlNetModel, folder)
        if spec.base is not None and not spec.controls:
            self._prior = _redux(spec.folder, components, make)
        pipeline = getattr(diffusers, class_name)
        taken = inspect.signature(pipeline).parameters
        unwanted = {name: value for name, value in _UNWANTED.items() if name in taken}
        self._pipe = pipeline(**components, **unwanted)
        self._pipe.set_progress_bar_config(disable=True)

    def parts(self) -> Mapping[str, Any]:
        """The networks, see `Pipeline.parts`."""
        components = [self._pipe.components, self._prior.components if self._prior else {}]
        return {
            name: part
            for found in components
            for name, part in found.items()
            if isinstance(part, torch.nn.Module)
        }

    def generate(
        self,
        request: GenerationRequest,
        seed: int,
        inputs: Mapping[ImageRole, Image.Image],
        hook: Hook,
    ) -> Image.Image:
        """Draw one picture. The time in diffusers' own code is the stage `process`."""
        given: dict[str, Any] = {
            name: inputs[role]
            for name, role in _PICTURES.get(type(self._pipe).__name__, {}).items()
        }
        if "max_area" in inspect.signature(self._pipe.__call__).parameters:
            given["max_area"] = (request.width or 0) * (request.height or 0)
        hook.stage(Stage.PROCESS)
        if self._prior is None:
            given["prompt"] = request.prompt
        else:
            given |= self._prior(inputs[ImageRole.REFERENCE], prompt=request.prompt)
        image: Image.Image = self._pipe(
            **given,
            width=request.width,
            height=request.height,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]
        hook.stage(Stage.ENCODE)
        return image

    def lacking(self, request: GenerationRequest) -> Mapping[Path, Callable[[], object]]:
        """Nothing: a ControlNet is made with the rest."""
        return {}

    def low_memory(self) -> AbstractContextManager[None] | None:
        """None: it is measured as it is."""
        return None

    def offloaded(self, how: Offload) -> AbstractContextManager[None] | None:
        """None: it is measured as it is."""
        return None

    def size_bytes(self) -> int:
        """What its networks take."""
        if self._pipe is None:
            return 0
        weights = [weight for part in self.parts().values() for weight in part.parameters()]
        return sum(weight.numel() * weight.element_size() for weight in weights)

    def unload(self) -> None:
        """Drop every component."""
        self._pipe = self._prior = None


def _components(folder: Path, make: Callable[[Any, Path], Any]) -> tuple[str, dict[str, Any]]:
    """The pipeline's class, and what it is made of. Raises `BrokenModel`."""
    try:
        index = json.loads((folder / "model_index.json").read_bytes())
    except (OSError, ValueError):
        raise BrokenModel(f"{folder.name}/model_index.json is missing or broken") from None
    class_name = str(index.pop("_class_name"))
    components: dict[str, Any] = {}
    for name, (library, kind) in index.items():
        made = getattr(diffusers if library == "diffusers" else transformers, kind)
        if made is diffusers.PNDMScheduler:
            # It asks the network once more than there are steps. Recipes are asked for Euler too.
            made = diffusers.EulerDiscreteScheduler
        if issubclass(made, torch.nn.Module):
            components[name] = make(made, folder / name)
        else:
            components[name] = made.from_pretrained(folder / name, local_files_only=True)
    return class_name, components


def _redux(folder: Path, base: Mapping[str, Any], make: Callable[[Any, Path], Any]) -> Any:
    """What turns a reference and a prompt into the embeddings that the base pipeline takes."""
    names = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    prior = diffusers.FluxPriorReduxPipeline(
        image_encoder=make(transformers.SiglipVisionModel, folder / "image_encoder"),
        feature_extractor=transformers.SiglipImageProcessorPil.from_pretrained(
            folder / "feature_extractor", local_files_only=True
        ),
        image_embedder=make(ReduxImageEncoder, folder / "image_embedder"),
        **{name: base[name] for name in names},
    )
    prior.set_progress_bar_config(disable=True)
    return prior
