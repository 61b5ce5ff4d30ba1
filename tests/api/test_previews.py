"""What a picture looks like while it is drawn, in the events of its task."""

import json
from base64 import b64decode
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import numpy
import pytest
from PIL import Image

from tests.api.test_generate import ask
from tests.serving import MODELS, RunningServer, serving

TINY = "tiny-flux-dev"
STEPS, PICTURES = 40, 4
ROOT = Path(__file__).parents[2]


def progress_of(client: httpx2.Client, asked: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Every `progress` event of a task, and the task's address."""
    accepted = client.post("/generate", json=asked | {"async": True})
    assert accepted.status_code == 202, accepted.text
    with client.stream("GET", accepted.json()["events_url"]) as answer:
        text = answer.read().decode()
    assert "event: finished" in text
    found = []
    for event in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in event.splitlines())
        if lines.get("event") == "progress":
            found.append(json.loads(lines["data"]))
    return found, accepted.json()["status_url"]


def shown(preview: str) -> Image.Image:
    head, _, data = preview.partition(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(BytesIO(b64decode(data, validate=True)))
    assert image.format == "JPEG"
    assert max(image.size) <= 256
    return image.convert("RGB")


def slow(**changes: Any) -> dict[str, Any]:
    return ask("fake:slow_step=0.15", num_inference_steps=9) | changes


def test_they_come_now_and_then(server: RunningServer) -> None:
    steps, _ = progress_of(server.client("generation"), slow())
    previews = [step["preview"] for step in steps if "preview" in step]
    assert 1 <= len(previews) < len(steps) / 2, "at most one in half a second"
    assert shown(previews[0]).size == (32, 32)
    assert all(step["task_id"] for step in steps)


def test_a_request_can_turn_them_off(server: RunningServer) -> None:
    steps, _ = progress_of(server.client("generation"), slow(preview=False))
    assert steps
    assert not [step for step in steps if "preview" in step]


def test_so_can_the_configuration(tmp_path: Path) -> None:
    models = {"flux1-dev": {"family": "fake", "multiple_of": 8} | MODELS["flux1-dev"]}
    with serving(tmp_path, models=models, api={"previews": False}) as server:
        steps, _ = progress_of(server.client("generation"), slow())
    assert steps
    assert not [step for step in steps if "preview" in step]


def test_a_form_can_too(server: RunningServer) -> None:
    form = {name: str(value) for name, value in slow(preview="off").items()}
    answer = server.client("generation").post("/generate/upload", data=form)
    assert answer.status_code == 200


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[RunningServer]:
    models = {TINY: {"family": "flux", "upscale": True}}
    with serving(tmp_path, models=models, models_dir=ROOT / "models") as running:
        yield running


def test_a_real_models_previews_look_like_its_pictures(tiny: RunningServer) -> None:
    """How much alike at which step is `tests/pipelines/test_preview.py`'s matter."""
    asked = ask("a green tree in the garden", model_id=TINY, num_inference_steps=STEPS)
    asked |= {"num_images": PICTURES, "width": 128, "height": 128}
    client = tiny.client("generation")
    steps, task = progress_of(client, asked)
    assert {step["total"] for step in steps} == {STEPS * PICTURES}
    assert steps[-1]["step"] == STEPS * PICTURES
    pictures = [b64decode(uri.partition(",")[2]) for uri in client.get(task).json()["images"]]
    previews = [step for step in steps if "preview" in step]
    assert previews
    for step in previews:
        number, done = divmod(step["step"] - 1, STEPS)
        if done < STEPS // 2:
            continue
        preview = shown(step["preview"])
        picture = Image.open(BytesIO(pictures[number])).convert("RGB")
        small = picture.resize(preview.size, Image.Resampling.BOX)
        one, other = (numpy.asarray(image, float).ravel() for image in (preview, small))
        assert numpy.corrcoef(one, other)[0, 1] > 0.7
