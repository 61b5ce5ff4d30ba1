"""The tiny Flux model that ships with the code, loaded once, and requests for it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from genserve.domain.model import Capabilities, ModelSpec
from genserve.domain.request import GenerationRequest, Mode
from genserve.pipelines.base import Cancelled, Stage

if TYPE_CHECKING:
    from genserve.pipelines.flux import Flux
    from tests.pipelines.flux_family import FluxFamily
TINY = Path(__file__).parents[2] / "models" / "tiny-flux-dev"


class Watcher:
    """A hook that keeps what it was told, and may cancel at a step."""

    attempt = 1

    def __init__(self, cancel_at: int | None = None) -> None:
        self.cancel_at = cancel_at
        self.steps: list[tuple[int, int]] = []
        self.stages: list[Stage] = []

    def stage(self, stage: Stage) -> None:
        self.stages.append(stage)

    def step(self, done: int, total: int) -> None:
        self.steps.append((done, total))
        if done == self.cancel_at:
            raise Cancelled

    def preview(self, make: Callable[[], Image.Image]) -> None:
        pass


def tiny_spec(**changes: Any) -> ModelSpec:
    values = {
        "id": "tiny-flux-dev",
        "family": "flux",
        "folder": TINY,
        "capabilities": Capabilities(modes=(Mode.TEXT2IMG, Mode.IMG2IMG)),
        "upscale": True,
        "native_pixels": 16_384,
        "buckets": ((128, 128), (128, 96), (96, 128), (160, 96), (96, 160)),
    }
    return ModelSpec.model_validate(values | changes)


def request(**changes: Any) -> GenerationRequest:
    values = {
        "model": "tiny-flux-dev",
        "prompt": "a red cat on a blue background",
        "width": 64,
        "height": 64,
        "steps": 3,
        "guidance": 3.5,
        "seed": 1,
        "scheduler": "euler",
        "strength": 0.8,
    }
    return GenerationRequest.model_validate(values | changes)


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """Some picture to start from."""
    return Image.linear_gradient("L").resize((64, 64)).convert("RGB")


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> "FluxFamily":
    """Every kind of Flux model, tiny and with random weights."""
    from tests.pipelines.flux_family import FluxFamily  # needs torch: not for all tests here

    return FluxFamily(tmp_path_factory.mktemp("models"))


LoadFlux = Callable[[ModelSpec], "Flux"]


@pytest.fixture(scope="session")
def load() -> Iterator[LoadFlux]:
    """The Flux model of a spec, each read once; single-threaded, as pictures this small want it."""
    import torch

    from genserve.pipelines.flux import Flux
    from genserve.pipelines.shelf import Shelf

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shelf, loaded = Shelf(), dict[str, Flux]()

    def _load(spec: ModelSpec) -> Flux:
        if spec.id not in loaded:
            loaded[spec.id] = Flux()
            loaded[spec.id].load(spec, "cpu", shelf)
        return loaded[spec.id]

    yield _load
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny random models: sd15, sdxl and sd3, and ControlNets for the first two."""
    from tests.pipelines.diffusion_models import BUILDERS  # diffusers is not every test's business
    from tests.pipelines.tiny_diffusion import build_controlnet

    folder = tmp_path_factory.mktemp("models")
    for family, build in BUILDERS.items():
        build(folder / family)
    for family in ("sd15", "sdxl"):
        build_controlnet(folder / f"{family}-canny", folder / family)
    return folder
