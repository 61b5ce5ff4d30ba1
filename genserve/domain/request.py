"""The one internal request that every dialect translates into.

No bytes, paths, ids or callers in it: pictures are references to stored files. `None` means "the
model's default"; `catalog.complete` returns a copy with no such `None` left.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from genserve.domain.samplers import Sigmas

MAX_LORAS = 32
"""LoRAs of one request."""
MAX_LORA_WEIGHT = 10.0
"""Beyond it, either way, there is only noise."""
MAX_THRESHOLD = 2040
"""Largest change that canny can see: Sobel's sums over 8-bit levels, both directions together."""
MAX_CONTROL_WEIGHT = 2.0
"""As A1111's ControlNet: beyond it there are only artefacts."""
MAX_SEED = 2**32 - 1
"""Largest seed: what A1111, NovelAI and the users' own clients all can carry."""


class Mode(StrEnum):
    """What is to be done."""

    TEXT2IMG = "text2img"
    IMG2IMG = "img2img"
    FILL = "fill"
    CONTROLNET = "controlnet"
    REDUX = "redux"
    EDIT = "edit"
    UPSCALE = "upscale"
    PREPROCESS = "preprocess"


class ImageRole(StrEnum):
    """What an input picture is for."""

    INIT = "init"
    MASK = "mask"
    CONTROL = "control"
    REFERENCE = "reference"


class ControlType(StrEnum):
    """What a control picture shows."""

    DEPTH = "depth"
    CANNY = "canny"
    OPENPOSE = "openpose"


REQUIRED_ROLES: dict[Mode, tuple[ImageRole, ...]] = {
    Mode.TEXT2IMG: (),
    Mode.IMG2IMG: (ImageRole.INIT,),
    Mode.FILL: (ImageRole.INIT, ImageRole.MASK),
    Mode.CONTROLNET: (ImageRole.CONTROL,),
    Mode.REDUX: (ImageRole.REFERENCE,),
    Mode.EDIT: (ImageRole.REFERENCE,),
    Mode.UPSCALE: (ImageRole.REFERENCE,),
    Mode.PREPROCESS: (ImageRole.CONTROL,),
}
"""What is upscaled is a reference: it reaches the model at its own size."""
TOOL_MODES = frozenset({Mode.UPSCALE, Mode.PREPROCESS})
"""Modes that make a picture from a picture, without prompt, noise and steps."""


class Value(BaseModel):
    """A frozen value that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRef(Value):
    """A stored picture, named by its content."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    media_type: Literal["image/png", "image/jpeg", "image/webp"]
    width: int
    height: int
    size_bytes: int


class Control(Value):
    """How a control picture steers.

    With `preprocess` it is a photo that the map is made from first; the thresholds are canny's: how
    much brightness or a colour must change to begin an edge (high) and to go on with one (low).
    """

    type: ControlType | None = None
    preprocess: bool = False
    low_threshold: Annotated[float, Field(ge=0, le=MAX_THRESHOLD)] = 100
    high_threshold: Annotated[float, Field(ge=0, le=MAX_THRESHOLD)] = 200
    weight: Annotated[float, Field(ge=0, le=MAX_CONTROL_WEIGHT, allow_inf_nan=False)] = 1.0
    start: Annotated[float, Field(ge=0, le=1)] = 0.0
    end: Annotated[float, Field(ge=0, le=1)] = 1.0


class InputImage(Value):
    """An input picture and its role; `control` only with `ImageRole.CONTROL`."""

    file: FileRef
    role: ImageRole
    control: Control | None = None


LoraWeight = Annotated[float, Field(ge=-MAX_LORA_WEIGHT, le=MAX_LORA_WEIGHT, allow_inf_nan=False)]


class LoraRef(Value):
    """A LoRA by its catalogue name, with its strength (negative allowed).

    `text_weight` is its strength in the text encoders where that is to be another.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    weight: LoraWeight = 1.0
    text_weight: LoraWeight | None = None


class Hires(Value):
    """A second pass at `scale` times the size."""

    scale: Annotated[float, Field(gt=1, le=4)] = 2.0
    steps: int | None = None
    strength: Annotated[float, Field(gt=0, le=1)] = 0.5


class Output(Value):
    """How the picture is encoded. `quality` 1-100 is for jpg and webp."""

    format: Literal["png", "jpg", "webp"] = "png"
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    metadata: bool = True


class GenerationRequest(Value):
    """What a caller asks for, in every dialect's common terms.

    `width` and `height` in pixels; `guidance` is cfg; `strength` 0-1 is how much of an init
    picture is redrawn; `sigmas` names how noise levels are spaced (absent: the model's own way);
    `clip_skip` counts the text encoder's layers from the end, as A1111 does: 1 (and 0) is the last,
    2 the last but one; `vae` is a file or folder below the models folder, by name.
    """

    model: str
    mode: Mode = Mode.TEXT2IMG
    prompt: str
    negative_prompt: str = ""
    width: Annotated[int, Field(gt=0)] | None = None
    height: Annotated[int, Field(gt=0)] | None = None
    count: Annotated[int, Field(ge=1, le=10)] = 1
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    scheduler: str | None = None
    sigmas: Sigmas | None = None
    clip_skip: Annotated[int, Field(ge=0, le=12)] | None = None
    vae: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    strength: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    hires: Hires | None = None
    images: tuple[InputImage, ...] = ()
    loras: Annotated[tuple[LoraRef, ...], Field(max_length=MAX_LORAS)] = ()
    output: Output = Output()
    preview: bool = True
    extras: dict[str, JsonValue] = Field(default_factory=dict)

    def image(self, role: ImageRole) -> InputImage | None:
        """The first picture with that role."""
        return next((image for image in self.images if image.role is role), None)

    @property
    def lora_key(self) -> str:
        """The LoRA set as one text: equal for requests that one prepared worker can serve."""
        acting = (lora for lora in self.loras if lora.weight or lora.text_weight)
        return ",".join(sorted(f"{one.name}:{one.weight!r}:{one.text_weight}" for one in acting))

    def files(self) -> Iterable[FileRef]:
        """The stored files that this request needs."""
        return (image.file for image in self.images)
