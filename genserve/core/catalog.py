"""Which models and LoRAs there are, what they can do, and whether a request fits them.

The only place where a model's defaults are filled in and its limits are checked. Everything comes
from the configuration and the scanned folders; no model name stands in code.
"""

from dataclasses import dataclass
from pathlib import Path

from genserve.config import Config, Model
from genserve.domain.model import Capabilities, Defaults, ModelSpec
from genserve.domain.request import (
    REQUIRED_ROLES,
    ControlType,
    GenerationRequest,
    ImageRole,
    InputImage,
    Mode,
)
from genserve.domain.samplers import canonical_scheduler
from genserve.errors import (
    ConfigError,
    MissingImage,
    ModelBroken,
    ModelNotInstalled,
    SizeNotMultiple,
    TooManyPixels,
    UnknownLora,
    UnknownModel,
    UnknownScheduler,
    UnsupportedControl,
    UnsupportedLora,
    UnsupportedMode,
    UnsupportedNegativePrompt,
)
from genserve.store.weights import LoraFile, ModelFolder, scan_loras, scan_model

FAMILIES_WITHOUT_WEIGHTS = frozenset({"fake"})

FIELD_OF_ROLE = {
    ImageRole.INIT: "input_image",
    ImageRole.MASK: "mask_image",
    ImageRole.CONTROL: "control_image",
    ImageRole.REFERENCE: "input_image",
}
"""What the native API calls the picture of each role, for messages."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model of the configuration as it stands on disk.

    `served_by` is the id of the model that draws when this one is asked for; None: none can.
    """

    spec: ModelSpec
    installed: bool
    problem: str | None
    served_by: str | None
    revision: str


class Catalog:
    """The models and LoRAs as scanned at construction."""

    def __init__(self, config: Config) -> None:
        self._entries = _entries(config)
        self._loras = {lora.name: lora for lora in scan_loras(config.loras_dir)}

    def models(self) -> list[ModelEntry]:
        """Every configured model, in the configuration's order."""
        return list(self._entries.values())

    def families(self) -> list[str]:
        """The families of the models that can be served."""
        return sorted({entry.spec.family for entry in self.models() if entry.installed})

    def loras(self) -> list[LoraFile]:
        """Every LoRA file that was found."""
        return list(self._loras.values())

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
        self._check_loras(request, serving.spec)
        complete, spec = self.complete(request)
        _check_size(request.model, complete, spec.capabilities)

    def complete(self, request: GenerationRequest) -> tuple[GenerationRequest, ModelSpec]:
        """The request with every default filled in, and the spec of the model that draws.

        Raises as `serving` does. The asked model's defaults count, not its stand-in's.
        """
        defaults = self.entry(request.model).spec.defaults
        spec = self.serving(request.model).spec
        scheduler = canonical_scheduler(request.scheduler or defaults.scheduler)
        filled = request.model_copy(
            update={
                "width": request.width or defaults.width,
                "height": request.height or defaults.height,
                "steps": request.steps or defaults.steps,
                "guidance": defaults.guidance if request.guidance is None else request.guidance,
                "strength": defaults.strength if request.strength is None else request.strength,
                "scheduler": scheduler,
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
        able = self.entry(request.model).spec.capabilities
        for image in request.images:
            control = image.control.type if image.control else None
            if control is not None and control not in able.control_types:
                raise UnsupportedControl(
                    model=request.model, control=control, supported=list(able.control_types)
                )
        for role in REQUIRED_ROLES[request.mode]:
            if request.image(role) is None:
                raise MissingImage(mode=request.mode, field=FIELD_OF_ROLE[role])
        schedulers = spec.capabilities.schedulers
        if request.scheduler and canonical_scheduler(request.scheduler) not in schedulers:
            raise UnknownScheduler(
                model=request.model, scheduler=request.scheduler, supported=list(schedulers)
            )
        if request.negative_prompt and not spec.capabilities.negative_prompt:
            raise UnsupportedNegativePrompt(model=request.model)

    def _check_loras(self, request: GenerationRequest, spec: ModelSpec) -> None:
        usable = {lora.name for lora in self._loras.values() if lora.problem is None}
        for lora in request.loras:
            if lora.name not in usable:
                raise UnknownLora(lora=lora.name, available=[*sorted(usable)])
        if request.loras and not spec.capabilities.loras:
            raise UnsupportedLora(model=request.model)


def _check_size(model_id: str, request: GenerationRequest, able: Capabilities) -> None:
    width, height, multiple = request.width or 0, request.height or 0, able.multiple_of
    if width % multiple or height % multiple:
        raise SizeNotMultiple(model=model_id, multiple=multiple, width=width, height=height)
    if width * height > able.max_pixels:
        raise TooManyPixels(model=model_id, width=width, height=height, max_pixels=able.max_pixels)


def _entries(config: Config) -> dict[str, ModelEntry]:
    stand_ins = {model.stand_in for model in config.models.values() if model.stand_in}
    for unknown in stand_ins - config.models.keys():
        raise ConfigError(problem=f"models: the stand-in {unknown} is not a model itself")
    folders = {
        model_id: _scanned(config.models_dir, model_id, model)
        for model_id, model in config.models.items()
    }
    real_ones = any(
        folder.present and not folder.problem and model_id not in stand_ins
        for model_id, folder in folders.items()
        if config.models[model_id].family not in FAMILIES_WITHOUT_WEIGHTS
    )
    return {
        model_id: _entry(
            model_id, model, folders, config.models_dir, stand_in_allowed=not real_ones
        )
        for model_id, model in config.models.items()
    }


def _scanned(models_dir: Path, model_id: str, model: Model) -> ModelFolder:
    if model.family in FAMILIES_WITHOUT_WEIGHTS:
        return ModelFolder(present=True)
    return scan_model(models_dir / (model.folder or model_id))


def _entry(
    model_id: str,
    model: Model,
    folders: dict[str, ModelFolder],
    models_dir: Path,
    *,
    stand_in_allowed: bool,
) -> ModelEntry:
    folder = folders[model_id]
    usable = folder.present and folder.problem is None
    served_by = model_id if usable else None
    if not folder.present and model.stand_in and stand_in_allowed:
        other = folders[model.stand_in]
        served_by = model.stand_in if other.present and other.problem is None else None
    return ModelEntry(
        spec=_spec(model_id, model, folder, models_dir),
        installed=usable,
        problem=folder.problem,
        served_by=served_by,
        revision=folder.revision,
    )


def _spec(model_id: str, model: Model, folder: ModelFolder, models_dir: Path) -> ModelSpec:
    try:
        capabilities = Capabilities(
            modes=tuple(Mode(mode) for mode in model.modes),
            control_types=tuple(ControlType(name) for name in model.control_types),
            schedulers=tuple(canonical_scheduler(name) for name in model.schedulers),
            loras=model.loras,
            negative_prompt=model.negative_prompt,
            multiple_of=folder.multiple_of or model.multiple_of,
            max_pixels=model.max_pixels,
        )
    except ValueError as error:
        raise ConfigError(problem=f"models.{model_id}: {error}") from None
    return ModelSpec(
        id=model_id,
        family=model.family,
        folder=(models_dir / (model.folder or model_id)).absolute(),
        description=model.description,
        capabilities=capabilities,
        defaults=Defaults(**model.defaults.model_dump(exclude_none=True)),
        stand_in=model.stand_in,
        upscale=model.upscale,
        native_pixels=model.native_pixels or folder.native_pixels,
        buckets=model.buckets or folder.buckets,
        dtype=model.dtype,
        options=model.options,
    )
