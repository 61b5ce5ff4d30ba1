"""The users' curl examples against the shipped configuration and models, over HTTP.

First with the document's own picture of one pixel, then with pictures that show something.
"""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genserve.config import Config
from genserve.config_sources import load
from tests.api.documented import (
    COMMON,
    FORM_EXAMPLES,
    JSON_EXAMPLES,
    LORAS,
    assert_documented,
)
from tests.api.pictures import opened, png, uri
from tests.semantic.conftest import LORAS as LORA_FOLDER
from tests.semantic.conftest import ROOT
from tests.serving import RunningServer, serving_config
from train_tiny.canvas import Pixels
from train_tiny.maps import canny_map, depth_map, pose_map
from train_tiny.scenes import Drawing, SceneSpec, draw

pytestmark = pytest.mark.timeout(300)
SCENE = SceneSpec("cat", "orange", "blue", "center", "large", "", "1:1", seed=7, looseness=0.0)
PERSON = SceneSpec("person", "red", "blue", "center", "large", "waving", "1:1", 7, 0.0)
SIDE = 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The shipped config.yaml; only its folders, keys, worker and address are the tests'."""
    running = RunningServer(_shipped(tmp_path_factory.mktemp("served")))
    running.start()
    yield running
    running.stop()


def _shipped(folder: Path) -> Config:
    own = serving_config(folder)
    return load(ROOT / "config.yaml", environ={}).model_copy(
        update={
            "data_dir": own.data_dir,
            "models_dir": ROOT / "models",
            "loras_dir": LORA_FOLDER,
            "keys": own.keys,
            "pool": own.pool,
            "api": own.api,
        }
    )


def shown(pixels: Pixels) -> bytes:
    """A drawing as a user would send it: a PNG as large as the picture that is asked for."""
    buffer = BytesIO()
    Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def real_pictures(mode: str, control: str | None) -> dict[str, bytes]:
    """What an example's fields are given, by their names."""
    drawing = draw(PERSON if control == "openpose" else SCENE)
    if mode == "controlnet":
        return {"control_image": shown(_map(drawing, control))}
    given = {"input_image": shown(drawing.pixels)}
    return given | ({"mask_image": shown(_mask())} if mode == "fill" else {})


def _map(drawing: Drawing, control: str | None) -> Pixels:
    maps = {
        "depth": lambda: depth_map(drawing, SCENE),
        "canny": lambda: canny_map(drawing.pixels),
        "openpose": lambda: pose_map(drawing),
    }
    return maps[control or ""]()


def _mask() -> Pixels:
    """The left half is to be painted anew."""
    mask = np.zeros((128, 128), np.uint8)
    mask[:, :64] = 255
    return mask


@pytest.mark.parametrize("section", JSON_EXAMPLES)
def test_json_examples_as_they_are_written(server: RunningServer, section: str) -> None:
    example = JSON_EXAMPLES[section]
    answer = server.client("generation").post("/generate", json=example | COMMON)
    assert_documented(answer, example["prompt"], example["model_id"], example["mode"])


@pytest.mark.parametrize("section", FORM_EXAMPLES)
def test_form_examples_with_real_pictures(server: RunningServer, section: str) -> None:
    fields, names = FORM_EXAMPLES[section]
    parts: dict[str, Any] = {name: (None, str(text)) for name, text in (fields | COMMON).items()}
    given = real_pictures(fields["mode"], fields.get("controlnet_type")) if names else {}
    assert [*given] == names
    parts |= {name: (f"{name}.png", data, "image/png") for name, data in given.items()}
    answer = server.client("generation").post("/generate/upload", files=parts)
    assert_documented(answer, fields["prompt"], fields["model_id"], fields["mode"])


@pytest.mark.parametrize("section", [name for name in JSON_EXAMPLES if name != "2.1.1"])
def test_json_examples_with_real_pictures(server: RunningServer, section: str) -> None:
    example = JSON_EXAMPLES[section]
    given = real_pictures(example["mode"], example.get("controlnet_type"))
    pictures = {name: uri(data) for name, data in given.items()}
    answer = server.client("generation").post("/generate", json=example | COMMON | pictures)
    assert_documented(answer, example["prompt"], example["model_id"], example["mode"])
    drawn = np.asarray(opened(answer.json()["image"]).convert("RGB")).astype(int)
    assert drawn.std() > 10, "the picture is of one colour"
    if example["mode"] == "fill":
        own = np.asarray(opened(given["input_image"]).convert("RGB")).astype(int)
        kept = np.asarray(opened(given["mask_image"])) == 0
        assert np.abs(drawn - own)[kept].max() <= 2
        assert np.abs(drawn - own)[~kept].mean() > 2


def test_lora_examples(server: RunningServer) -> None:
    """2.1.8 and 2.2.5 draw the same picture, another one than without the LoRA."""
    if not (LORA_FOLDER / "cute_cat_lora.safetensors").is_file():
        pytest.skip("loras/cute_cat_lora.safetensors is not trained yet")
    client = server.client("generation")
    plain = JSON_EXAMPLES["2.1.1"] | COMMON
    without = client.post("/generate", json=plain).json()["image"]
    in_json = client.post("/generate", json=plain | {"loras": LORAS})
    parts = {name: (None, str(text)) for name, text in plain.items()}
    parts["loras"] = (None, json.dumps(LORAS))
    in_form = client.post("/generate/upload", files=parts)
    for answer in (in_json, in_form):
        assert_documented(answer, plain["prompt"], plain["model_id"], plain["mode"])
        worn = [lora | {"text_weight": None} for lora in LORAS]
        assert answer.json()["metadata"]["loras"] == worn
    assert in_json.json()["image"] == in_form.json()["image"] != without


def test_a_lora_for_another_family_is_refused(server: RunningServer) -> None:
    """By name, and with the family that it is for."""
    if not (ROOT / "models/tiny-sd15").is_dir():
        pytest.skip("models/tiny-sd15 is not trained yet")
    answer = server.client("generation").post(
        "/generate", json={"prompt": "a cat", "model_id": "sd15", "loras": LORAS}
    )
    assert answer.status_code == 400
    assert answer.json()["code"] == "lora_of_another_family"
    assert "flux" in answer.json()["detail"]


def test_a_picture_of_one_pixel_is_as_good_as_any(server: RunningServer) -> None:
    """Also one that was made by others."""
    answer = server.client("generation").post(
        "/generate", json=JSON_EXAMPLES["2.1.2"] | COMMON | {"input_image": uri(png(1, 1, "blue"))}
    )
    assert answer.status_code == 200
