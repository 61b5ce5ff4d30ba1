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
from genserve.domain.request import (
    MAX_CONTROL_WEIGHT,
    MAX_LORA_WEIGHT,
    MAX_LORAS,
    MAX_SEED,
    MAX_THRESHOLD,
    Mode,
)
from genserve.domain.samplers import Sigmas

MODES = (Mode.TEXT2IMG, Mode.IMG2IMG, Mode.FILL, Mode.CONTROLNET, Mode.REDUX, Mode.EDIT)
IMAGE_FIELDS = ("input_image", "mask_image", "control_image")
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
    "controlnet_conditioning_scale": "control_weight",
    "controlnet_weight": "control_weight",
    "control_guidance_start": "control_start",
    "control_guidance_end": "control_end",
    "noise_schedule": "sigmas",
    "schedule": "sigmas",
    "sd_vae": "vae",
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


def absent_when_empty(value: object) -> object:
    """A form's empty field is one that was not filled in."""
    return None if value == "" else value


def jpg(value: object) -> object:
    """JPEG under either name."""
    return "jpg" if value == "jpeg" else value


Text = Annotated[StrictStr, AfterValidator(_storable)]
Name = Annotated[StrictStr, Field(min_length=1, max_length=200), AfterValidator(_storable)]
Finite = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Threshold = Annotated[Finite, Field(ge=0, le=MAX_THRESHOLD)]
Weight = Annotated[Finite, Field(ge=-MAX_LORA_WEIGHT, le=MAX_LORA_WEIGHT)]
Base64 = Annotated[
    StrictStr | None,
    BeforeValidator(absent_when_empty),
    Field(description="base64 of a PNG, JPEG or WebP picture, with or without `data:` prefix"),
]


class Strict(BaseModel):
    """A body whose unknown fields are refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LoraEntry(Strict):
    """A LoRA of `GET /loras` and how strongly it acts."""

    name: Name
    weight: Weight = 1.0
    text_weight: Annotated[
        Weight | None, Field(description="in the text encoders, where it is to be another")
    ] = None


class GenerateFields(Strict):
    """What POST /generate and POST /generate/upload have in common."""

    prompt: Annotated[
        StrictStr, Field(min_length=1), AfterValidator(_storable), AfterValidator(_not_blank)
    ]
    negative_prompt: Annotated[Text | None, BeforeValidator(absent_when_empty)] = None
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
        Field(description="how much of input_image is redrawn, or how much it counts in redux"),
    ] = None
    controlnet_type: Annotated[
        Literal["depth", "canny", "openpose"] | None, BeforeValidator(absent_when_empty)
    ] = None
    preprocess: Annotated[
        StrictBool, Field(description="control_image is a photo: make the map from it first")
    ] = False
    low_threshold: Annotated[
        Threshold | None, Field(description="with preprocess, for canny: what goes on with an edge")
    ] = None
    high_threshold: Annotated[
        Threshold | None, Field(description="with preprocess, for canny: what begins an edge")
    ] = None
    control_weight: Annotated[
        Annotated[Finite, Field(ge=0, le=MAX_CONTROL_WEIGHT)] | None,
        Field(description="how strongly control_image steers; absent: 1"),
    ] = None
    control_start: Annotated[
        Annotated[Finite, Field(ge=0, le=1)] | None,
        Field(description="share of the steps after which it begins to steer; absent: 0"),
    ] = None
    control_end: Annotated[
        Annotated[Finite, Field(ge=0, le=1)] | None,
        Field(description="share of the steps after which it no longer steers; absent: 1"),
    ] = None
    loras: Annotated[list[LoraEntry], Field(max_length=MAX_LORAS)] | None = None
    num_images: Annotated[StrictInt, Field(ge=1, le=10)] = 1
    scheduler: Annotated[Name | None, BeforeValidator(absent_when_empty)] = None
    sigmas: Annotated[
        Sigmas | None,
        BeforeValidator(absent_when_empty),
        Field(description="how noise levels are spaced; absent: as scheduler or the model says"),
    ] = None
    clip_skip: Annotated[
        Annotated[StrictInt, Field(ge=0, le=12)] | None,
        Field(description="which layer of the text encoder is read, from the end: 1 is the last"),
    ] = None
    vae: Annotated[
        Name | None,
        BeforeValidator(absent_when_empty),
        Field(description="another VAE: a folder or file below the models folder, by its name"),
    ] = None
    output_format: Annotated[Literal["png", "jpg", "webp"], BeforeValidator(jpg)] = "png"
    embed_metadata: Annotated[
        StrictBool | None, Field(description="write the parameters into the picture")
    ] = None
    preview: Annotated[
        StrictBool,
        Field(description="show in the task's events what the picture looks like so far"),
    ] = True
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
    owner: Annotated[Name | None, BeforeValidator(absent_when_empty)] = None
    expires_at: Annotated[datetime | None, BeforeValidator(absent_when_empty)] = None
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


def _count(text: str) -> object:
    return _whole(text) if text.strip() else None


def _limit(text: str) -> object:
    return _number(text) if text.strip() else None


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
    "strength": _limit,
    "num_images": _whole,
    "embed_metadata": _truth,
    "preview": _truth,
    "preprocess": _truth,
    "low_threshold": _limit,
    "control_weight": _limit,
    "control_start": _limit,
    "control_end": _limit,
    "clip_skip": _count,
    "high_threshold": _limit,
    "scale": _limit,
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
