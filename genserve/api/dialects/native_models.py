"""What a caller of the native API sends: documented names and defaults, strict types.

JSON is taken strictly (a text is no number, true is no number). Forms carry only text, so there
the numbers and truth values are read from it first; after that both are one model.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
)

from genserve.api.body import FormValue
from genserve.api.problems import Problem
from genserve.domain.caller import Permission
from genserve.domain.request import MAX_SEED, Mode

MODES = (Mode.TEXT2IMG, Mode.IMG2IMG, Mode.FILL, Mode.CONTROLNET, Mode.REDUX)
IMAGE_FIELDS = ("input_image", "mask_image", "control_image")
MAX_LORAS = 32
MAX_SIDE = 16_384
RANDOM_SEED = -1

SYNONYMS = {
    "model": "model_id",
    "steps": "num_inference_steps",
    "num_steps": "num_inference_steps",
    "guidance": "cfg",
    "guidance_scale": "cfg",
    "cfg_scale": "cfg",
    "n": "num_images",
    "count": "num_images",
    "batch_size": "num_images",
    "image": "input_image",
    "init_image": "input_image",
    "mask": "mask_image",
    "lora": "loras",
    "sampler": "scheduler",
    "sampler_name": "scheduler",
    "format": "output_format",
    "denoising_strength": "strength",
    "negative": "negative_prompt",
    "control_type": "controlnet_type",
}
"""What other tools call our fields, for hints."""


def _storable(text: str) -> str:
    if "\0" in text:
        raise Problem("bad_text")
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write as \ud800
        raise Problem("bad_text") from None
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise Problem("empty")
    return text


def _absent_when_empty(value: object) -> object:
    return None if value == "" else value


def _jpg(value: object) -> object:
    return "jpg" if value == "jpeg" else value


Text = Annotated[StrictStr, AfterValidator(_storable)]
Name = Annotated[StrictStr, Field(min_length=1, max_length=200), AfterValidator(_storable)]
Finite = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Base64 = Annotated[
    StrictStr | None,
    BeforeValidator(_absent_when_empty),
    Field(description="base64 of a PNG, JPEG or WebP picture, with or without `data:` prefix"),
]


class Strict(BaseModel):
    """A body whose unknown fields are refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LoraEntry(Strict):
    """A LoRA of `GET /loras` and how strongly it acts."""

    name: Name
    weight: Annotated[Finite, Field(ge=-10, le=10)] = 1.0


class GenerateFields(Strict):
    """What POST /generate and POST /generate/upload have in common."""

    prompt: Annotated[
        StrictStr, Field(min_length=1), AfterValidator(_storable), AfterValidator(_not_blank)
    ]
    negative_prompt: Annotated[Text | None, BeforeValidator(_absent_when_empty)] = None
    model_id: Name = "flux1-dev"
    mode: Annotated[Name, Field(json_schema_extra={"enum": list(MODES)})] = Mode.TEXT2IMG.value
    width: Annotated[StrictInt, Field(ge=1, le=MAX_SIDE)] = 1024
    height: Annotated[StrictInt, Field(ge=1, le=MAX_SIDE)] = 1024
    num_inference_steps: Annotated[StrictInt, Field(ge=1, le=100)] = 50
    cfg: Annotated[Finite, Field(ge=0, le=50)] = 3.5
    seed: Annotated[
        Annotated[StrictInt, Field(ge=RANDOM_SEED, le=MAX_SEED)] | None,
        Field(description="null or -1 draws one; the answer names it"),
    ] = 42
    priority: Annotated[
        StrictInt, Field(ge=-100, le=100, description="lower numbers are served first")
    ] = 0
    strength: Annotated[
        Annotated[Finite, Field(ge=0, le=1)] | None,
        Field(description="how much of input_image is redrawn"),
    ] = None
    controlnet_type: Annotated[
        Literal["depth", "canny", "openpose"] | None, BeforeValidator(_absent_when_empty)
    ] = None
    loras: Annotated[list[LoraEntry], Field(max_length=MAX_LORAS)] | None = None
    num_images: Annotated[StrictInt, Field(ge=1, le=10)] = 1
    scheduler: Annotated[Name | None, BeforeValidator(_absent_when_empty)] = None
    output_format: Annotated[Literal["png", "jpg", "webp"], BeforeValidator(_jpg)] = "png"
    embed_metadata: Annotated[
        StrictBool | None, Field(description="write the parameters into the picture")
    ] = None
    respond_async: Annotated[
        StrictBool, Field(alias="async", description="answer 202 with the task's id at once")
    ] = False


class GenerateBody(GenerateFields):
    """POST /generate."""

    input_image: Base64 = None
    mask_image: Base64 = None
    control_image: Base64 = None


class NewKeyBody(Strict):
    """POST /auth/generate-key. `permissions` as a list, or as a text with commas."""

    name: Annotated[Name, AfterValidator(_not_blank)]
    permissions: Annotated[list[Permission], Field(min_length=1)]
    owner: Annotated[Name | None, BeforeValidator(_absent_when_empty)] = None
    expires_at: Annotated[datetime | None, BeforeValidator(_absent_when_empty)] = None
    priority_floor: Annotated[StrictInt, Field(ge=-100, le=100)] = 0


class DeleteKeyBody(Strict):
    """POST /auth/delete-key."""

    api_key: Name


class DeleteKeyByIdBody(Strict):
    """POST /auth/delete-key-by-id."""

    key_id: Name


class DeleteKeyByNameBody(Strict):
    """POST /auth/delete-key-by-name."""

    name: Name


def _whole(text: str) -> object:
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,19}", text.strip()) else text


def _number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def _seed(text: str) -> object:
    return None if text.strip().casefold() in ("", "null", "none") else _whole(text)


def _truth(text: str) -> object:
    words = {"true": True, "1": True, "yes": True, "on": True}
    words |= {"false": False, "0": False, "no": False, "off": False}
    return words.get(text.strip().casefold(), text)


IN_FORMS: dict[str, Callable[[str], object]] = {
    "width": _whole,
    "height": _whole,
    "num_inference_steps": _whole,
    "cfg": _number,
    "seed": _seed,
    "priority": _whole,
    "strength": _number,
    "num_images": _whole,
    "embed_metadata": _truth,
    "async": _truth,
    "priority_floor": _whole,
}
"""How a form's texts are read; what cannot be read stays a text, which the model refuses."""


def from_form(fields: Mapping[str, FormValue | JsonValue]) -> dict[str, object]:
    """A form's fields with the types that JSON would have given them."""
    return {
        name: IN_FORMS[name](value) if name in IN_FORMS and isinstance(value, str) else value
        for name, value in fields.items()
    }
