"""Whether a model can draw as a request asks: scheduler, noise levels, text layer, VAE."""

from typing import Any

from genserve.domain.model import Defaults, ModelSpec
from genserve.domain.request import GenerationRequest
from genserve.domain.samplers import WITHOUT_SIGMAS, read_sampler
from genserve.errors import (
    BadControlRange,
    ContradictingSigmas,
    SchedulerWithoutSigmas,
    UnknownScheduler,
    UnknownVae,
    UnsupportedClipSkip,
    UnsupportedSigmas,
    UnsupportedVae,
)


def completed(request: GenerationRequest, defaults: Defaults) -> dict[str, Any]:
    """The scheduler's canonical name, and the noise levels: asked for, or told by its name."""
    sampler = read_sampler(request.scheduler or defaults.scheduler)
    return {"scheduler": sampler.scheduler, "sigmas": request.sigmas or sampler.sigmas}


def check(request: GenerationRequest, spec: ModelSpec, defaults: Defaults) -> None:
    """Raise what the model that draws cannot do. The defaults are the asked model's."""
    able = spec.capabilities
    if request.scheduler and read_sampler(request.scheduler).scheduler not in able.schedulers:
        raise UnknownScheduler(
            model=request.model, scheduler=request.scheduler, supported=list(able.schedulers)
        )
    _check_agreement(request)
    if request.scheduler or request.sigmas:
        _check_sigmas(completed(request, defaults), request.model, spec)
    if (request.clip_skip or 0) > 1 and not able.clip_skip:
        raise UnsupportedClipSkip(model=request.model)
    if request.vae is not None:
        if not able.vaes:
            raise UnsupportedVae(model=request.model)
        if request.vae not in spec.vaes:
            raise UnknownVae(vae=request.vae, available=list(spec.vaes))
    for control in (image.control for image in request.images if image.control is not None):
        if control.start >= control.end:
            raise BadControlRange(start=control.start, end=control.end)


def _check_agreement(request: GenerationRequest) -> None:
    """A scheduler's name may carry its levels; `sigmas` beside it may only say the same."""
    named = read_sampler(request.scheduler).sigmas if request.scheduler else None
    if named is not None and request.sigmas not in (None, named):
        raise ContradictingSigmas(scheduler=request.scheduler, sigmas=request.sigmas)


def _check_sigmas(asked: dict[str, Any], model: str, spec: ModelSpec) -> None:
    sigmas, able = asked["sigmas"], spec.capabilities.sigmas
    if sigmas is None:
        return
    if sigmas not in able:
        raise UnsupportedSigmas(model=model, sigmas=sigmas, supported=list(able))
    if asked["scheduler"] in WITHOUT_SIGMAS:
        others = [name for name in spec.capabilities.schedulers if name not in WITHOUT_SIGMAS]
        raise SchedulerWithoutSigmas(scheduler=asked["scheduler"], sigmas=sigmas, able=[*others])
