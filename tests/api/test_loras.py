"""LoRAs over HTTP, on the shipped Flux model: listed, asked for by JSON and form, refused."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from tests.pipelines.conftest import TINY
from tests.serving import RunningServer, serving
from tests.store.tensors import safetensors

MODEL = {"family": "flux", "folder": TINY.name, "loras": True, "native_pixels": 16_384}
LAYERS = [
    f"transformer.single_transformer_blocks.{n}.attn.to_{end}" for n in range(4) for end in "qv"
]
ASK = {"prompt": "a red cat", "width": 64, "height": 64, "num_inference_steps": 2, "seed": 3}


def write(path: Path, width: int, seed: int) -> None:
    chance, tensors = numpy.random.default_rng(seed), {}
    for layer in LAYERS:
        tensors[f"{layer}.lora_A.weight"] = chance.normal(size=(4, width)).astype(numpy.float16)
        up = 0.1 * chance.normal(size=(width, 4))
        tensors[f"{layer}.lora_B.weight"] = up.astype(numpy.float16)
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path, metadata={"modelspec.trigger_phrase": "outlined"})


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras") / "loras"
    write(folder / "outlined.safetensors", 160, 1)
    write(folder / "bold.safetensors", 160, 2)
    write(folder / "of_the_real_model.safetensors", 192, 3)
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    shapes = {f"{layer}.lora_down.weight": (4, 768), f"{layer}.lora_up.weight": (320, 4)}
    safetensors(folder / "night_style.safetensors", shapes)
    (folder / "old.ckpt").write_bytes(b"\x80\x04")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, loras: Path) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    models = {"flux1-dev": MODEL, "plain": MODEL | {"loras": False}}
    settings: dict[str, Any] = {"models_dir": TINY.parent, "loras_dir": loras, "models": models}
    with serving(folder, **settings) as running:
        yield running


def test_every_lora_is_listed_with_what_it_is(server: RunningServer, loras: Path):
    listed = server.client("readonly").get("/loras").json()["loras"]
    assert [one["name"] for one in listed] == [
        "bold", "night_style", "of_the_real_model", "old", "outlined",
    ]  # fmt: skip
    by_name = {one["name"]: one for one in listed}
    file = loras / "outlined.safetensors"
    assert by_name["outlined"] == {
        "name": "outlined",
        "size_bytes": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "base": "flux",
        "kind": "lora",
        "rank": 4,
        "trigger_words": ["outlined"],
        "available": True,
        "problem": None,
    }
    assert by_name["night_style"]["base"] == "sd15"
    assert not by_name["old"]["available"]
    assert by_name["old"]["problem"] == "old.ckpt may run code; convert it to safetensors"


def test_a_lora_by_json_and_by_form_draws_the_same_other_picture(server: RunningServer):
    client = server.client("generation")
    wanted = [{"name": "outlined", "weight": 0.8}, {"name": "bold", "weight": -0.5}]
    plain = client.post("/generate", json=ASK).json()
    in_json = client.post("/generate", json=ASK | {"loras": wanted}).json()
    fields = {name: (None, str(value)) for name, value in ASK.items()}
    fields["loras"] = (None, json.dumps(wanted))
    in_form = client.post("/generate/upload", files=fields).json()
    assert in_json["image"] == in_form["image"] != plain["image"]
    assert in_json["metadata"]["loras"] == [
        {"name": "outlined", "weight": 0.8, "text_weight": None},
        {"name": "bold", "weight": -0.5, "text_weight": None},
    ]
    assert client.post("/generate", json=ASK).json()["image"] == plain["image"]
    nothing = [{"name": "outlined", "weight": 0}]
    off = client.post("/generate", json=ASK | {"loras": nothing}).json()
    assert off["metadata"]["loras"][0]["weight"] == 0


REFUSED: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "another family": (
        {"loras": [{"name": "night_style"}]},
        400,
        "lora_of_another_family",
        "night_style was made for sd15; flux1-dev takes flux LoRAs.",
    ),
    "a pickle": ({"loras": [{"name": "old"}]}, 400, "lora_broken", "old.ckpt may run code"),
    "no such": (
        {"loras": [{"name": "gone"}]},
        400,
        "unknown_lora",
        "Available: bold, night_style, of_the_real_model, outlined.",
    ),
    "of another size": (
        {"loras": [{"name": "of_the_real_model"}]},
        400,
        "lora_does_not_fit",
        "makes a change of 192x192, but its layer is 160x160",
    ),
    "twice": (
        {"loras": [{"name": "bold"}, {"name": "bold"}]},
        422,
        "duplicate_lora",
        "bold is named more than once",
    ),
    "too strong": (
        {"loras": [{"name": "bold", "weight": 11}]},
        422,
        "validation_error",
        "loras.0.weight: must be at most 10",
    ),
    "too strong in the text": (
        {"loras": [{"name": "bold", "text_weight": -11}]},
        422,
        "validation_error",
        "loras.0.text_weight: must be at least -10",
    ),
    "a model without": (
        {"model_id": "plain", "loras": [{"name": "bold"}]},
        400,
        "unsupported_lora",
        "plain does not take LoRAs",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_told_with_what_would(server: RunningServer, name: str):
    fields, status, code, detail = REFUSED[name]
    answer = server.client("generation").post("/generate", json=ASK | fields)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert detail in answer.json()["detail"]
    assert server.client("generation").post("/generate", json=ASK).status_code == 200
