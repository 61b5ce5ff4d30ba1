"""What a caller of the native API sends to make a picture from a picture without a prompt."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt

from genserve.api.dialects.native_docs import Binary
from genserve.api.dialects.native_models import (
    MAX_SIDE,
    Base64,
    Finite,
    Name,
    Strict,
    Threshold,
    absent_when_empty,
    jpg,
)

MAX_SCALE = 16
UPSCALE_SYNONYMS = {
    "model": "model_id",
    "upscaler": "model_id",
    "image": "input_image",
    "init_image": "input_image",
    "format": "output_format",
    "upscale_by": "scale",
    "upscaling_resize": "scale",
    "factor": "scale",
}
PREPROCESS_SYNONYMS = {
    "image": "input_image",
    "init_image": "input_image",
    "control_image": "input_image",
    "format": "output_format",
    "type": "preprocessor",
    "model": "preprocessor",
    "model_id": "preprocessor",
    "controlnet_type": "preprocessor",
    "module": "preprocessor",
}
"""What other tools call our fields, for hints."""

Side = Annotated[
    Annotated[StrictInt, Field(ge=1, le=MAX_SIDE)] | None, BeforeValidator(absent_when_empty)
]


class ToolFields(Strict):
    """What every picture tool takes."""

    width: Annotated[
        Side, Field(description="pixels; with one of both, the other follows the picture's shape")
    ] = None
    height: Side = None
    priority: Annotated[
        StrictInt, Field(ge=-100, le=100, description="lower numbers are served first")
    ] = 0
    output_format: Annotated[Literal["png", "jpg", "webp"], BeforeValidator(jpg)] = "png"
    embed_metadata: Annotated[
        StrictBool | None, Field(description="write what was done into the picture")
    ] = None
    respond_async: Annotated[
        StrictBool, Field(alias="async", description="answer 202 with the task's id at once")
    ] = False


class UpscaleFields(ToolFields):
    """POST /generate and POST /generate/upload with mode `upscale`."""

    mode: Literal["upscale"]
    model_id: Name = "lanczos"
    scale: Annotated[
        Annotated[Finite, Field(ge=1, le=MAX_SCALE)] | None,
        BeforeValidator(absent_when_empty),
        Field(description="how many times as large; instead of width and height"),
    ] = None


class UpscaleBody(UpscaleFields):
    """Mode `upscale` as JSON."""

    input_image: Base64 = None


class UpscaleForm(UpscaleFields):
    """Mode `upscale` as a form."""

    input_image: Binary = None


class PreprocessFields(ToolFields):
    """What POST /preprocess takes as JSON and as a form."""

    preprocessor: Annotated[Name, Field(description="an id of GET /preprocessors")]
    low_threshold: Annotated[
        Threshold | None, Field(description="canny, 100: what goes on with an edge")
    ] = None
    high_threshold: Annotated[
        Threshold | None, Field(description="canny, 200: what begins an edge")
    ] = None


class PreprocessBody(PreprocessFields):
    """POST /preprocess as JSON."""

    input_image: Base64 = None


class PreprocessForm(PreprocessFields):
    """POST /preprocess as a form."""

    input_image: Binary = None
