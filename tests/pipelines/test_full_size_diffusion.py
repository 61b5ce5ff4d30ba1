"""Full-size Stable Diffusion without its weights: every documented model's shapes fit the recipe.

As test_full_size.py does for FLUX.1: on the meta device, up to the network's first answer. Only
how a prompt is cut into pieces, which looks at its tokens' numbers, is left out; the text encoders
themselves run, as the recipe reads them.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml

from genserve.domain.model import ModelSpec
from genserve.domain.request import ImageRole, Mode
from genserve.pipelines import full_size, prompts, registry
from genserve.pipelines.base import Cancelled, Pipeline
from genserve.pipelines.shelf import Shelf
from tests.pipelines.conftest import TINY, Watcher
from tests.pipelines.diffusion_models import asked
from tests.pipelines.test_full_size import pictures

Load = Callable[[str], Pipeline]
META = cast(Any, "meta")
CONFIG = Path(__file__).parents[2] / "config.yaml"
DRAWN_BY_RECIPES = {"flux", "sd15", "sdxl", "sd3"}
SD3_TEXT = {
    "text_encoder": 123_650_304,
    "text_encoder_2": 694_659_840,
    "text_encoder_3": 4_762_310_656,
    "vae": 83_819_683,
}
PARAMETERS = {
    "sd15": {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863},
    "sdxl": {
        "unet": 2_567_463_684,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
        "vae": 83_653_863,
    },
    "sd3-medium": {"transformer": 2_028_328_000, **SD3_TEXT},
    "sd3.5-medium": {"transformer": 2_243_171_520, **SD3_TEXT},
    "sd3.5-large": {"transformer": 8_056_627_520, **SD3_TEXT},
}
"""Weights of each network, as the models' authors count them."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """The model of that name, each made once."""
    root = tmp_path_factory.mktemp("full-size")

    @cache
    def _loaded(name: str) -> Pipeline:
        usual = full_size.usual(name)
        spec = ModelSpec(
            id=name,
            family=usual.family,
            dtype=usual.gpu_dtype,
            options={"random_weights": True},
            **full_size.write(name, root, TINY),
        )
        pipeline = registry.make(usual.family)
        pipeline.load(spec, META, Shelf("meta"))
        return pipeline

    return _loaded


def test_every_model_of_the_shipped_configuration_is_known():
    models = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["models"]
    drawing = {name for name, model in models.items() if model["family"] in DRAWN_BY_RECIPES}
    documented = {name for name in drawing if not name.startswith("tiny-")}
    assert documented <= set(full_size.names())
    for name in documented:
        assert full_size.usual(name).family == models[name]["family"]
        assert full_size.usual(name).mode in models[name]["modes"]


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_their_size(loaded: Load, name: str):
    networks = loaded(name).parts()
    counted = {
        part: sum(w.numel() for w in network.parameters()) for part, network in networks.items()
    }
    assert counted == PARAMETERS[name]
    half = getattr(torch, full_size.usual(name).gpu_dtype)
    kept = {part: network.dtype for part, network in networks.items()}
    # SDXL's VAE overflows in 16 bits, and says so.
    assert kept == dict.fromkeys(networks, half) | (
        {"vae": torch.float32} if name == "sdxl" else {}
    )


def encoded_shapes(
    texts: Sequence[str], encoders: Sequence[prompts.TextEncoder], device: str
) -> list[torch.Tensor]:
    """As `prompts.encode` of texts of one piece, whatever they say."""
    columns = []
    for encoder in encoders:
        longest = prompts._Tokens(encoder).model_max_length
        tokens = torch.zeros((1, longest), dtype=torch.int, device=device)
        output = encoder.model(tokens, output_hidden_states=True)
        columns.append(encoder.layer(encoder.model, output))
    return [torch.cat(columns, dim=-1) for _ in texts]


CASES: list[tuple[Mode, tuple[ImageRole, ...]]] = [
    (Mode.TEXT2IMG, ()),
    (Mode.IMG2IMG, (ImageRole.INIT,)),
    (Mode.FILL, (ImageRole.INIT, ImageRole.MASK)),
]


@pytest.mark.parametrize(("mode", "roles"), CASES, ids=[str(mode) for mode, _ in CASES])
@pytest.mark.parametrize("name", PARAMETERS)
def test_the_recipe_reaches_the_networks_first_answer(
    loaded: Load,
    name: str,
    mode: Mode,
    roles: tuple[ImageRole, ...],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(prompts, "encode", encoded_shapes)
    model, usual = loaded(name), full_size.usual(name)
    drawing = "transformer" if usual.family == "sd3" else "unet"
    seen: list[tuple[int, ...]] = []

    def stop(_: Any, args: Any, given: dict[str, Any], out: Any) -> None:
        seen.append(tuple(out[0].shape))
        raise Cancelled

    hook = model.parts()[drawing].register_forward_hook(stop, with_kwargs=True)
    # One that looks at no number before the network's first answer: most find their place by them.
    scheduler = "euler" if usual.family == "sd3" else "dpmpp_2m"
    size = {"width": 1024, "height": 1024, "strength": 1.0, "scheduler": scheduler}
    with pytest.raises(Cancelled):
        model.generate(asked(mode=mode, **size), 1, pictures(roles), Watcher())
    hook.remove()
    assert seen == [(2, model.parts()["vae"].config.latent_channels, 128, 128)]
