"""What the catalogue knows about preprocessors and upscalers: which serves, and at what size."""

from collections.abc import Iterable

from genserve.core.inventory import ModelEntry
from genserve.domain.model import ModelSpec
from genserve.domain.request import REQUIRED_ROLES, ControlType, GenerationRequest, Mode
from genserve.errors import ModelBroken, PreprocessorMissing, UnsupportedControl

SCALE = 2.0
"""How many times as large an upscaled picture gets on a side where nobody says; a model's option
`scale` says otherwise."""


def preprocessors(entries: Iterable[ModelEntry]) -> list[ModelEntry]:
    """The models that make control maps."""
    return [entry for entry in entries if Mode.PREPROCESS in entry.spec.capabilities.modes]


def preprocessor_for(entries: Iterable[ModelEntry], control: ControlType) -> ModelSpec:
    """The first installed model that makes maps of that type.

    Raises `PreprocessorMissing`, `ModelBroken`, or `UnsupportedControl` where none is configured.
    """
    able = preprocessors(entries)
    fitting = [entry for entry in able if control in entry.spec.capabilities.control_types]
    for entry in fitting:
        if entry.installed:
            return entry.spec
    for entry in fitting:
        if entry.problem is not None:
            raise ModelBroken(model=entry.spec.id, reason=entry.problem)
    if not fitting:
        known = {kind for entry in able for kind in entry.spec.capabilities.control_types}
        raise UnsupportedControl(
            model=Mode.PREPROCESS.value, control=control, supported=[*sorted(known)]
        )
    spec = fitting[0].spec
    raise PreprocessorMissing(control=control, model=spec.id, folder=f"models/{spec.folder.name}")


def size_of(request: GenerationRequest, spec: ModelSpec) -> tuple[int, int]:
    """Width and height of what a tool makes, in pixels.

    What was asked for; where one of both was, the other in the picture's own shape; where neither,
    a map as large as the picture, and an enlargement by the model's own factor.
    """
    picture = request.image(REQUIRED_ROLES[request.mode][0])
    if picture is None:
        return spec.defaults.width, spec.defaults.height
    width, height = picture.file.width, picture.file.height
    scale = 1.0
    if request.width:
        scale = request.width / width
    elif request.height:
        scale = request.height / height
    elif request.mode is Mode.UPSCALE:
        scale = float(spec.options.get("scale", SCALE))
    return (
        request.width or max(1, round(width * scale)),
        request.height or max(1, round(height * scale)),
    )
