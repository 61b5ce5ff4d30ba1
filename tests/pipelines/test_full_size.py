"""Full-size FLUX.1 without its weights: every documented model's shapes fit the recipe.

On the meta device, where tensors have shapes and no numbers. The recipe runs as it is, from the
prompt and the pictures to the transformer's first answer for a picture of a megapixel. There it is
stopped: a scheduler looks at numbers.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image

from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest, ImageRole, Mode
from genserve.pipelines import full_size
from genserve.pipelines.base import BrokenModel, Cancelled
from genserve.pipelines.flux import Flux
from genserve.pipelines.flux_loading import Kind
from genserve.pipelines.shelf import Shelf
from tests.pipelines.conftest import TINY, Watcher, request

Load = Callable[[str], Flux]
META = cast(Any, "meta")
SIDE = 1024
BILLIONS = {
    "flux1-dev": 11.901,
    "flux1-schnell": 11.891,
    "flux1-krea-dev": 11.901,
    "flux1-fill-dev": 11.902,
    "flux1-depth-dev": 11.902,
    "flux1-canny-dev": 11.902,
    "flux1-kontext-dev": 11.901,
    "flux1-openpose-dev": 11.901,
    "flux1-redux-dev": 11.901,
}
"""Weights of each transformer, as the papers and the files' sizes have them."""
KINDS = {
    "flux1-fill-dev": Kind.FILL,
    "flux1-depth-dev": Kind.CONTROL,
    "flux1-canny-dev": Kind.CONTROL,
    "flux1-kontext-dev": Kind.KONTEXT,
}
CASES: list[tuple[str, Mode, tuple[ImageRole, ...]]] = [
    ("flux1-dev", Mode.TEXT2IMG, ()),
    ("flux1-dev", Mode.IMG2IMG, (ImageRole.INIT,)),
    ("flux1-dev", Mode.FILL, (ImageRole.INIT, ImageRole.MASK)),
    ("flux1-schnell", Mode.TEXT2IMG, ()),
    ("flux1-krea-dev", Mode.TEXT2IMG, ()),
    ("flux1-fill-dev", Mode.FILL, (ImageRole.INIT, ImageRole.MASK)),
    ("flux1-fill-dev", Mode.TEXT2IMG, ()),
    ("flux1-fill-dev", Mode.IMG2IMG, (ImageRole.INIT,)),
    ("flux1-depth-dev", Mode.CONTROLNET, (ImageRole.CONTROL,)),
    ("flux1-canny-dev", Mode.CONTROLNET, (ImageRole.CONTROL, ImageRole.INIT)),
    ("flux1-openpose-dev", Mode.CONTROLNET, (ImageRole.CONTROL,)),
    ("flux1-redux-dev", Mode.REDUX, (ImageRole.REFERENCE,)),
    ("flux1-kontext-dev", Mode.EDIT, (ImageRole.REFERENCE,)),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("full-size")


def spec(root: Path, name: str) -> ModelSpec:
    options = {"random_weights": True}
    return ModelSpec(
        id=name,
        family="flux",
        dtype="bfloat16",
        options=options,
        **full_size.write(name, root, TINY),
    )


@pytest.fixture(scope="module")
def loaded(root: Path) -> Callable[[str], Flux]:
    """The model of that name, each made once."""

    @cache
    def _loaded(name: str) -> Flux:
        flux = Flux()
        flux.load(spec(root, name), META, Shelf("meta"))
        return flux

    return _loaded


def billions(network: Any) -> float:
    weights = sum(int(weight.numel()) for weight in network.parameters())
    return round(weights / 1e9, 3)


def test_every_documented_model_is_known():
    flux = {name for name in full_size.names() if full_size.usual(name).family == "flux"}
    assert flux == BILLIONS.keys()


@pytest.mark.parametrize("name", sorted(BILLIONS))
def test_the_loader_recognises_the_folder_and_its_networks_have_their_size(loaded: Load, name: str):
    flux = loaded(name)
    for read in flux.lacking(asks(Mode.CONTROLNET, ())).values():
        read()
    assert flux._parts is not None
    assert flux._parts.kind is KINDS.get(name, Kind.BASE)
    networks = flux.parts()
    assert billions(networks["transformer"]) == BILLIONS[name]
    assert billions(networks["text_encoder_2"]) == 4.762
    assert billions(networks["text_encoder"]) == 0.123
    assert billions(networks["vae"]) == 0.084
    assert {w.dtype for part in networks.values() for w in part.parameters()} == {torch.bfloat16}
    assert flux._text_tokens == 512
    assert flux.distilled_guidance is (name != "flux1-schnell")
    if name == "flux1-openpose-dev":
        assert billions(networks["controlnet"]) == 2.141
    if name == "flux1-redux-dev":
        assert billions(networks["image_encoder"]) == 0.428
        assert billions(networks["image_embedder"]) == 0.065


@pytest.mark.parametrize(
    ("name", "mode", "roles"),
    CASES,
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else str(value),
)
def test_the_recipe_reaches_the_transformers_first_answer(
    loaded: Load, name: str, mode: Mode, roles: tuple[ImageRole, ...]
):
    flux = loaded(name)
    seen: list[tuple[int, ...]] = []
    transformer = flux.parts()["transformer"]

    def stop(_: Any, args: Any, given: dict[str, Any], out: Any) -> None:
        seen.append((*given["hidden_states"].shape, *out[0].shape))
        raise Cancelled

    hook = transformer.register_forward_hook(stop, with_kwargs=True)
    with pytest.raises(Cancelled):
        flux.generate(asks(mode, roles), 1, pictures(roles), Watcher())
    hook.remove()
    tokens = SIDE * SIDE // 16**2
    shown = tokens + (tokens if mode is Mode.EDIT else 0)
    channels = transformer.config.in_channels
    assert seen == [(1, shown, channels, 1, shown, 64)]


def asks(mode: Mode, roles: tuple[ImageRole, ...]) -> GenerationRequest:
    file = {"sha256": "0" * 64, "media_type": "image/png", "size_bytes": 1}
    file |= {"width": SIDE, "height": SIDE}
    images = [{"file": file, "role": role, "control": None} for role in roles]
    return request(mode=mode, width=SIDE, height=SIDE, images=images, strength=1.0)


def pictures(roles: tuple[ImageRole, ...]) -> dict[ImageRole, Image.Image]:
    kinds = {ImageRole.MASK: "L"}
    return {role: Image.new(kinds.get(role, "RGB"), (SIDE, SIDE), "white") for role in roles}


def test_made_up_weights_are_the_same_each_time_and_draw(tmp_path: Path, family: Any):
    """Small ones, on the CPU: what a benchmark does with full-size ones on a GPU."""
    small = family.base()
    options = {"random_weights": True}
    drawn = []
    for _ in range(2):
        flux = Flux()
        flux.load(small.model_copy(update={"options": options}), "cpu", Shelf())
        drawn.append(flux.generate(request(), 1, {}, Watcher()).tobytes())
    real = Flux()
    real.load(small, "cpu", Shelf())
    assert drawn[0] == drawn[1]
    assert drawn[0] != real.generate(request(), 1, {}, Watcher()).tobytes()


def test_made_up_weights_need_a_configuration(root: Path):
    model = spec(root, "flux1-dev")
    (model.folder / "vae" / "config.json").unlink()
    with pytest.raises(BrokenModel, match=r"flux1-dev/vae/config\.json is missing"):
        Flux().load(model, META, Shelf("meta"))
