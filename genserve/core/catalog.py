"""Which models and LoRAs there are, what they can do, and whether a request fits them.

The only place where a model's defaults are filled in and its limits are checked. Everything comes
from the configuration and the scanned folders; no model name stands in code.
"""

import math
from collections.abc import Iterable
from copy import copy

from genserve import file_hashes
from genserve.config import Config
from genserve.core import sampling
from genserve.core.inventory import ModelEntry, entries, scan_extras
from genserve.core.lora_catalog import LoraCatalog
from genserve.core.picture_tools import preprocessor_for, size_of
from genserve.domain.lora import LoraSource
from genserve.domain.model import Capabilities, Defaults, ModelSpec
from genserve.domain.request import (
    REQUIRED_ROLES,
    TOOL_MODES,
    ControlType,
    GenerationRequest,
    ImageRole,
    InputImage,
    Mode,
)
from genserve.errors import (
    ControlNotInstalled,
    MaskSizeMismatch,
    MissingImage,
    ModelBroken,
    ModelNotInstalled,
    SizeNotMultiple,
    TooManyPixels,
    UnknownModel,
    UnsupportedControl,
    UnsupportedControlWeight,
    UnsupportedMask,
    UnsupportedMode,
    UnsupportedNegativePrompt,
)
from genserve.file_hashes import FileHashes
from genserve.store.loras import LoraFile, scan_loras

FIELD_OF_ROLE = {
    ImageRole.INIT: "input_image",
    ImageRole.MASK: "mask_image",
    ImageRole.CONTROL: "control_image",
    ImageRole.REFERENCE: "input_image",
}
"""What the native API calls the picture of each role, for messages."""

_FAMILIES_THAT_FILL_ALONG_A_MAP = frozenset({"sd15", "sdxl", "fake"})
"""Whose models may be given a mask beside a control picture."""
_ROUNDING = 1e-6
"""A float's last digit must not cost a whole multiple."""


class Catalog:
    """The models and LoRAs as scanned at construction. It never changes; see `LiveCatalog`."""

    def __init__(self, config: Config, known: Iterable[LoraFile] = ()) -> None:
        """Scan. `known` LoRAs are not read again while their files are the same.

        Raises `ConfigError`, `OSError`.
        """
        self.extras = scan_extras(config)
        self._entries = entries(config, self.extras)
        self._loras = _scanned_loras(config, known)

    def with_new_loras(self, config: Config) -> "Catalog":
        """The same models with the LoRAs as they are now. Raises `OSError`."""
        other = copy(self)
        other._loras = _scanned_loras(config, self._loras.all())
        return other

    def models(self) -> list[ModelEntry]:
        """Every configured model, in the configuration's order."""
        return list(self._entries.values())

    def families(self) -> list[str]:
        """The families of the models that can be served."""
        return sorted({entry.spec.family for entry in self.models() if entry.installed})

    def loras(self) -> list[LoraFile]:
        """Every LoRA file that was found."""
        return self._loras.all()

    def lora_sources(self, request: GenerationRequest) -> dict[str, LoraSource]:
        """The files of the request's LoRAs by name. Raises `UnknownLora`, `LoraBroken`."""
        return self._loras.sources(request)

    def entry(self, model_id: str) -> ModelEntry:
        """The entry of a model. Raises `UnknownModel`."""
        if model_id not in self._entries:
            raise UnknownModel(model=model_id, available=list(self._entries))
        return self._entries[model_id]

    def serving(self, model_id: str) -> ModelEntry:
        """The entry of the model that draws. Raises `UnknownModel`, `ModelBroken` or
        `ModelNotInstalled`."""
        entry = self.entry(model_id)
        if entry.served_by is not None:
            return self._entries[entry.served_by]
        if entry.problem is not None:
            raise ModelBroken(model=model_id, reason=entry.problem)
        raise ModelNotInstalled(model=model_id, folder=f"models/{entry.spec.folder.name}")

    def preprocessor(self, request: GenerationRequest) -> ModelSpec | None:
        """What makes the control map where the request gives a photo; None: it gives the map.

        Raises as `picture_tools.preprocessor_for`.
        """
        image = request.image(ImageRole.CONTROL)
        control = image.control if image else None
        if request.mode is not Mode.CONTROLNET or control is None or not control.preprocess:
            return None
        kind = control.type or self.default_control(request.model)
        return preprocessor_for(self.models(), kind) if kind else None

    def default_control(self, model_id: str) -> ControlType | None:
        """The control type that a request without one means: the model's first."""
        types = self.entry(model_id).spec.capabilities.control_types
        return types[0] if types else None

    def check(self, request: GenerationRequest) -> None:
        """Raise the `InvalidRequest` or `ValidationFailed` that says what the model cannot do."""
        self.entry(request.model)
        self._check_mode(request)
        serving = self.serving(request.model)
        self._check_mode(request, serving.spec)
        self._check_extras(request, serving.spec)
        self._loras.check(request, serving.spec)
        complete, spec = self.complete(request)
        _check_size(request.model, complete, spec.capabilities)

    def complete(self, request: GenerationRequest) -> tuple[GenerationRequest, ModelSpec]:
        """The request with every default filled in, and the spec of the model that draws.

        Raises as `serving` does. The asked model's defaults count, not its stand-in's.
        """
        defaults = self.entry(request.model).spec.defaults
        spec = self.serving(request.model).spec
        width, height, steps = defaults.width, defaults.height, defaults.steps
        if request.mode in TOOL_MODES:
            (width, height), steps = size_of(request, spec), 1
        elif request.mode is Mode.EDIT:
            width, height = _edited_size(request, defaults, spec.capabilities.multiple_of)
        filled = request.model_copy(
            update={
                "width": request.width or width,
                "height": request.height or height,
                "steps": request.steps or steps,
                "guidance": defaults.guidance if request.guidance is None else request.guidance,
                "strength": _strength(request, defaults),
                **sampling.completed(request, defaults),
                "images": tuple(self._with_control(request.model, i) for i in request.images),
            }
        )
        return filled, spec

    def _with_control(self, model_id: str, image: InputImage) -> InputImage:
        """The picture with the model's own control type where the request named none."""
        if image.control is None or image.control.type is not None:
            return image
        control = image.control.model_copy(update={"type": self.default_control(model_id)})
        return image.model_copy(update={"control": control})

    def _check_mode(self, request: GenerationRequest, spec: ModelSpec | None = None) -> None:
        able = (spec or self.entry(request.model).spec).capabilities
        if request.mode not in able.modes:
            raise UnsupportedMode(
                model=request.model, mode=request.mode, supported=[mode for mode in able.modes]
            )

    def _check_extras(self, request: GenerationRequest, spec: ModelSpec) -> None:
        for role in REQUIRED_ROLES[request.mode]:
            if request.image(role) is None:
                raise MissingImage(mode=request.mode, field=FIELD_OF_ROLE[role])
        self._check_control(request)
        self.preprocessor(request)
        _check_mask(request, spec)
        sampling.check(request, spec, self.entry(request.model).spec.defaults)
        if request.negative_prompt and not spec.capabilities.negative_prompt:
            raise UnsupportedNegativePrompt(model=request.model)

    def _check_control(self, request: GenerationRequest) -> None:
        """What the picture shows must be known to the asked model and to the one that draws."""
        serving = self.serving(request.model)
        for image in (self._with_control(request.model, image) for image in request.images):
            control = image.control.type if image.control else None
            if control is None:
                continue
            if control in serving.missing_controls:
                raise ControlNotInstalled(
                    model=request.model, control=control, reason=serving.missing_controls[control]
                )
            for spec in (self.entry(request.model).spec, serving.spec):
                able = spec.capabilities.control_types
                if control not in able:
                    raise UnsupportedControl(
                        model=request.model, control=control, supported=list(able)
                    )
            if _is_weakened(image) and not serving.spec.capabilities.control_weights:
                raise UnsupportedControlWeight(model=request.model)


def _scanned_loras(config: Config, known: Iterable[LoraFile]) -> LoraCatalog:
    hashes = FileHashes(config.run_dir / file_hashes.FOLDER)
    return LoraCatalog(scan_loras(config.loras_dir, hashes, known))


def _strength(request: GenerationRequest, defaults: Defaults) -> float:
    """What is filled, and what a picture is a variation of, counts whole unless asked otherwise."""
    if request.strength is not None:
        return request.strength
    whole = request.mode in (Mode.FILL, Mode.REDUX) or request.image(ImageRole.MASK) is not None
    return 1.0 if whole else defaults.strength


def _edited_size(request: GenerationRequest, defaults: Defaults, multiple: int) -> tuple[int, int]:
    """Width and height, in pixels, that give an edited picture the shape of the one that was sent.

    With one of both asked for, the other follows it. With neither, there are about as many pixels
    as in the model's default size, and not more: it edits best at the size of its training.
    """
    picture = request.image(ImageRole.REFERENCE)
    if picture is None:
        return defaults.width, defaults.height
    sides = (picture.file.width, picture.file.height)
    scale = math.sqrt(defaults.width * defaults.height / (sides[0] * sides[1]))
    if request.width:
        scale = request.width / sides[0]
    elif request.height:
        scale = request.height / sides[1]
    width, height = (max(1, int(side * scale / multiple + _ROUNDING)) * multiple for side in sides)
    return width, height


def _is_weakened(image: InputImage) -> bool:
    control = image.control
    return control is not None and (control.weight, control.start, control.end) != (1, 0, 1)


def _check_mask(request: GenerationRequest, spec: ModelSpec) -> None:
    """A mask says of each pixel of the picture whether it is kept, so it has as many."""
    init, mask = request.image(ImageRole.INIT), request.image(ImageRole.MASK)
    if mask is None:
        return
    if request.mode is Mode.CONTROLNET and spec.family not in _FAMILIES_THAT_FILL_ALONG_A_MAP:
        raise UnsupportedMask(model=request.model)
    if init is None:
        raise MissingImage(mode=request.mode, field=FIELD_OF_ROLE[ImageRole.INIT])
    size, needed = (mask.file.width, mask.file.height), (init.file.width, init.file.height)
    if size != needed:
        raise MaskSizeMismatch(
            width=size[0], height=size[1], needed_width=needed[0], needed_height=needed[1]
        )


def _check_size(model_id: str, request: GenerationRequest, able: Capabilities) -> None:
    width, height, multiple = request.width or 0, request.height or 0, able.multiple_of
    if width % multiple or height % multiple:
        raise SizeNotMultiple(model=model_id, multiple=multiple, width=width, height=height)
    if width * height > able.max_pixels:
        raise TooManyPixels(model=model_id, width=width, height=height, max_pixels=able.max_pixels)
