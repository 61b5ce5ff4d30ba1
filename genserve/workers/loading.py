"""How a model comes into the memory of a worker process, and what is made sure of then."""

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest
from genserve.errors import ModelBroken
from genserve.pipelines import canary, faults
from genserve.pipelines.base import BrokenModel, Pipeline
from genserve.pipelines.cache import Residents
from genserve.workers.channel import ChildSettings
from genserve.workers.dressing import Dressing

T = TypeVar("T")

log = logging.getLogger("child")

_UNKNOWN = "one of its files is broken, the log says which; download it again"


class Unfit(Exception):
    """This process or its device cannot work; `reason` is a short text of ours."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Loader:
    """Reads models into one process's memory."""

    def __init__(self, settings: ChildSettings, residents: Residents, dressing: Dressing) -> None:
        self._settings = settings
        self._residents = residents
        self._dressing = dressing

    def load(self, spec: ModelSpec) -> Pipeline:
        """Read the model. Raises `ModelBroken`, `Unfit`, or what is no file's fault."""
        pipeline = _read(spec, partial(self._residents.load, spec))
        self._dressing.undress(pipeline, spec.id)
        if not self._canary_fits(pipeline, spec):
            # Other rungs would be worse: tiles draw another picture, and evicted models cost more
            # than a check that the next load makes up for.
            log.warning("no memory for %s's test picture; it waits for the next load", spec.id)
            faults.release_memory()
        return pipeline

    def complete(self, spec: ModelSpec, request: GenerationRequest) -> None:
        """See `Residents.complete`. Raises as `load`."""
        _read(spec, partial(self._residents.complete, spec, request))

    def _canary_fits(self, pipeline: Pipeline, spec: ModelSpec) -> bool:
        """Whether there was memory for the canary, which was right then. Raises `Unfit`."""
        settings = self._settings
        try:
            canary.check(
                pipeline,
                spec,
                folder=settings.run_folder / "canary",
                device=f"{settings.device_name}, {settings.threads} threads",
                restarted=settings.restarted,
            )
        except canary.CanaryMismatch:
            reason = f"after a restart the device draws {spec.id}'s test picture differently"
            raise Unfit(reason) from None
        except Exception as error:
            if faults.classify(error) is not faults.Fault.OUT_OF_MEMORY:
                raise
            return False
        return True


def _read(spec: ModelSpec, read: Callable[[], T]) -> T:
    """What `read` does with that model's files. Raises `ModelBroken`, or what is no file's."""
    try:
        return read()
    except Exception as error:
        if faults.classify(error) is faults.Fault.ORDINARY:
            log.exception("cannot load %s", spec.id)
            reason = error.reason if isinstance(error, BrokenModel) else _UNKNOWN
            raise ModelBroken(model=spec.id, reason=reason) from None
        raise
