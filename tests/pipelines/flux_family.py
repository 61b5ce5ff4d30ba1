"""Every kind of Flux model, tiny and with random weights, as folders on disk.

Text encoders, tokenizers, scheduler and VAE are the shipped model's; what makes a kind of its own
is made here from its configuration and saved as its makers save it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxControlNetModel, FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from genserve.domain.model import Capabilities, ModelSpec
from genserve.domain.request import ControlType

TINY = Path(__file__).parents[2] / "models" / "tiny-flux-dev"
TEXT_WIDTH, POOLED_WIDTH = 128, 64
HEADS, HEAD_WIDTH, AXES = 2, 16, [4, 6, 6]


def transformer(in_channels: int, *, guidance: bool = True, out_channels: int | None = None) -> Any:
    torch.manual_seed(in_channels)
    return FluxTransformer2DModel(
        in_channels=in_channels,
        out_channels=out_channels,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=guidance,
        axes_dims_rope=AXES,
    )


def controlnet(*, modes: int | None = None, hint: int | None = None) -> Any:
    torch.manual_seed(modes or 0)
    network = FluxControlNetModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=AXES,
        num_mode=modes,
        conditioning_embedding_channels=hint,
        patch_size=1 if hint is None else 2,
    )
    for layer in [*network.controlnet_blocks, *network.controlnet_single_blocks]:
        torch.nn.init.normal_(layer.weight, std=0.5)  # they begin at zero, which controls nothing
    torch.nn.init.normal_(network.controlnet_x_embedder.weight, std=0.5)
    return network


class FluxFamily:
    """The folders, each made when a test first asks for it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def spec(self, name: str, **changes: Any) -> ModelSpec:
        values = {"id": name, "family": "flux", "folder": self.root / name}
        values["capabilities"] = Capabilities()
        values["native_pixels"] = 64 * 64
        return ModelSpec.model_validate(values | changes)

    def base(self) -> ModelSpec:
        return self.spec(self._whole("base", "FluxPipeline", 64))

    def schnell(self) -> ModelSpec:
        return self.spec(self._whole("schnell", "FluxPipeline", 64, guidance=False))

    def fill(self) -> ModelSpec:
        return self.spec(self._whole("fill", "FluxFillPipeline", 384))

    def control(self) -> ModelSpec:
        return self.spec(self._whole("control", "FluxControlPipeline", 128))

    def kontext(self) -> ModelSpec:
        return self.spec(self._whole("kontext", "FluxKontextPipeline", 64))

    def openpose(self, **config: Any) -> ModelSpec:
        name = "openpose" + "".join(f"-{key}{value}" for key, value in config.items())
        folder = self.root / name
        if not folder.exists():
            controlnet(**config).save_pretrained(folder)
        controls = {ControlType.OPENPOSE: folder}
        return self.spec(name, base=self.base().folder, controls=controls)

    def redux(self) -> ModelSpec:
        folder = self.root / "redux"
        if not folder.exists():
            torch.manual_seed(7)
            eye = SiglipVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=32,
                patch_size=8,
            )
            SiglipVisionModel(eye).save_pretrained(folder / "image_encoder")
            extractor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
            extractor.save_pretrained(folder / "feature_extractor")
            embedder = ReduxImageEncoder(redux_dim=32, txt_in_features=TEXT_WIDTH)
            embedder.save_pretrained(folder / "image_embedder")
            index = {
                "_class_name": "FluxPriorReduxPipeline",
                "feature_extractor": ["transformers", "SiglipImageProcessor"],
                "image_embedder": ["flux", "ReduxImageEncoder"],
                "image_encoder": ["transformers", "SiglipVisionModel"],
            }
            (folder / "model_index.json").write_text(json.dumps(index))
        return self.spec("redux", base=self.base().folder)

    def _whole(self, name: str, class_name: str, channels: int, **config: Any) -> str:
        folder = self.root / name
        if not folder.exists():
            ignored = shutil.ignore_patterns("transformer", "*.png", "*.md", "figures.json")
            shutil.copytree(TINY, folder, ignore=ignored)
            network = transformer(channels, out_channels=64, **config)
            network.save_pretrained(folder / "transformer")
            index = folder / "model_index.json"
            content = json.loads(index.read_text()) | {"_class_name": class_name}
            index.write_text(json.dumps(content))
        return name
