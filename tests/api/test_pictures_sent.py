"""What the pictures of a request do to the answer's picture, through the whole server."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from PIL import Image, ImageChops

from tests.api.pictures import opened, png, uri
from tests.serving import RunningServer, serving

SIDE = 64
MODELS: dict[str, Any] = {
    "kontext": {"modes": ["edit"], "defaults": {"width": 256, "height": 256}},
    "edges": {"modes": ["controlnet"], "control_types": ["canny"]},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    models = {name: {"family": "fake", "multiple_of": 8} | more for name, more in MODELS.items()}
    with serving(tmp_path_factory.mktemp("server"), models=models) as running:
        yield running


def answer(server: RunningServer, **fields: Any) -> dict[str, Any]:
    asked = {"prompt": "a cat", "num_inference_steps": 2} | fields
    answered = server.client("generation").post("/generate", json=asked)
    assert answered.status_code == 200, answered.text
    content: dict[str, Any] = answered.json()
    return content


def right_half() -> str:
    """A mask of it."""
    mask, buffer = Image.new("L", (SIDE, SIDE)), BytesIO()
    mask.paste(255, (SIDE // 2, 0, SIDE, SIDE))
    mask.save(buffer, "PNG")
    return uri(buffer.getvalue())


def test_an_edited_picture_keeps_its_shape_unless_a_size_is_named(server: RunningServer) -> None:
    asked = {"model_id": "kontext", "mode": "edit", "input_image": uri(png(200, 50))}
    content = answer(server, **asked)
    assert opened(content["image"]).size == (512, 128)
    assert (content["metadata"]["width"], content["metadata"]["height"]) == (512, 128)
    assert content["metadata"]["strength"] is None, "it does not count here"
    assert opened(answer(server, **asked, width=64, height=48)["image"]).size == (64, 48)


def test_beside_a_control_picture_the_mask_says_what_is_redrawn(server: RunningServer) -> None:
    asked: dict[str, Any] = {"model_id": "edges", "mode": "controlnet"}
    asked |= {"width": SIDE, "height": SIDE, "control_image": uri(png(colour="white"))}
    own = png(colour="blue")
    content = answer(server, **asked, input_image=uri(own), mask_image=right_half())
    assert content["metadata"]["strength"] == 1
    changed = ImageChops.difference(opened(content["image"]), opened(own))
    assert changed.getbbox() is not None
    left, top, right, bottom = changed.getbbox() or (0, 0, 0, 0)
    assert (left, right) == (SIDE // 2, SIDE)
    assert (top, bottom) == (0, SIDE)
    assert answer(server, **asked)["metadata"]["strength"] is None


def test_strength_that_would_count_for_nothing_is_refused(server: RunningServer) -> None:
    asked = {"prompt": "x", "model_id": "kontext", "mode": "edit", "strength": 0.5}
    refused = server.client("generation").post(
        "/generate", json=asked | {"input_image": uri(png())}
    )
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_error")
    assert "strength" in refused.json()["detail"]
