"""The curl examples of the users' API document, section 2, as data, and what it says of answers."""

from typing import Any

import httpx2

from tests.api.pictures import opened

ONE_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA"
    "60e6kgAAAABJRU5ErkJggg=="
)
COMMON: dict[str, Any] = {
    "height": 1024,
    "width": 1024,
    "num_inference_steps": 50,
    "cfg": 3.5,
    "seed": 42,
    "priority": 0,
}
CAT = "一只可爱的小猫坐在花园里"
JSON_EXAMPLES: dict[str, dict[str, Any]] = {
    "2.1.1": {"prompt": CAT, "model_id": "flux1-dev", "mode": "text2img"},
    "2.1.2": {
        "prompt": CAT,
        "model_id": "flux1-dev",
        "mode": "img2img",
        "strength": 0.8,
        "input_image": ONE_PIXEL,
    },
    "2.1.3": {
        "prompt": "一只可爱的小猫",
        "model_id": "flux1-fill-dev",
        "mode": "fill",
        "input_image": ONE_PIXEL,
        "mask_image": ONE_PIXEL,
    },
    "2.1.4": {
        "prompt": CAT,
        "model_id": "flux1-depth-dev",
        "mode": "controlnet",
        "controlnet_type": "depth",
        "control_image": ONE_PIXEL,
    },
    "2.1.5": {
        "prompt": CAT,
        "model_id": "flux1-canny-dev",
        "mode": "controlnet",
        "controlnet_type": "canny",
        "control_image": ONE_PIXEL,
    },
    "2.1.6": {
        "prompt": CAT,
        "model_id": "flux1-openpose-dev",
        "mode": "controlnet",
        "controlnet_type": "openpose",
        "control_image": ONE_PIXEL,
    },
    "2.1.7": {
        "prompt": "高质量图像",
        "model_id": "flux1-redux-dev",
        "mode": "redux",
        "input_image": ONE_PIXEL,
    },
}
FORM_EXAMPLES: dict[str, tuple[dict[str, str], list[str]]] = {
    "2.2.1": ({"prompt": CAT, "model_id": "flux1-dev", "mode": "text2img"}, []),
    "2.2.2": (
        {"prompt": CAT, "model_id": "flux1-dev", "mode": "img2img", "strength": "0.8"},
        ["input_image"],
    ),
    "2.2.3": (
        {"prompt": "一只可爱的小猫", "model_id": "flux1-fill-dev", "mode": "fill"},
        ["input_image", "mask_image"],
    ),
    "2.2.4": (
        {
            "prompt": CAT,
            "model_id": "flux1-depth-dev",
            "mode": "controlnet",
            "controlnet_type": "depth",
        },
        ["control_image"],
    ),
}
LORAS = [{"name": "cute_cat_lora", "weight": 0.8}]
"""Of 2.1.8 and 2.2.5, which are 2.1.1 and 2.2.1 with these."""


def assert_documented(answer: httpx2.Response, prompt: str, model: str, mode: str) -> None:
    """§5.1, field by field."""
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert content["success"] is True
    assert content["image"].startswith("data:image/png;base64,")
    assert content["images"] == [content["image"]]
    assert opened(content["image"]).size == (1024, 1024)
    metadata = content["metadata"]
    assert metadata["prompt"] == prompt
    assert (metadata["model_id"], metadata["mode"]) == (model, mode)
    assert (metadata["seed"], metadata["cfg"], metadata["steps"]) == (42, 3.5, 50)
    assert isinstance(metadata["generation_time"], float)
    assert content["auth_info"] == {"user": "generation", "permissions": ["generation"]}
