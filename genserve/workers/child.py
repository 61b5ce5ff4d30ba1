"""The worker process: reads what it is to do, does it, reports. Alone imports `pipelines`.

One thread, one task at a time. An exception ends the task, not the process, unless it means that
nothing this process computes can be trusted any more: then it says so and is gone.
"""

import logging
import os
import socket
import sys
import time
from collections import deque
from functools import partial
from typing import IO, NoReturn, assert_never

from PIL import Image

from genserve import file_hashes
from genserve.domain.model import ModelSpec
from genserve.domain.pool import Assignment
from genserve.domain.task import Degraded, ErrorInfo, Result
from genserve.errors import (
    BadPicture,
    GenServeError,
    OutOfMemory,
    WorkerFailed,
)
from genserve.pipelines import canary, faults, peak_memory, registry
from genserve.pipelines.base import Cancelled, UnusablePicture, as_configured
from genserve.pipelines.cache import EVICTED, Residents
from genserve.pipelines.ladder import Ladder, NoMemory
from genserve.pipelines.shelf import Shelf
from genserve.workers import orphans
from genserve.workers.channel import Channel, ChildSettings, ParentGone
from genserve.workers.control_maps import control_map
from genserve.workers.drawing import Drawing, Reporter
from genserve.workers.dressing import Dressing
from genserve.workers.loading import Loader, Unfit
from genserve.workers.messages import (
    UNFIT_EXIT_CODE,
    Cancel,
    Done,
    Failed,
    Loading,
    Models,
    Prepare,
    Prepared,
    Ready,
    Run,
    Started,
    StartFailed,
    Stop,
    Stopped,
    ToChild,
    Unload,
)
from genserve.workers.output import log_to_parent
from genserve.workers.rungs import TILING, rungs

FATAL_EXIT_CODE = 4

log = logging.getLogger("child")


class Child:
    """Serves one parent until it says stop or is gone."""

    def __init__(self, settings: ChildSettings, channel: Channel) -> None:
        self._settings = settings
        self._channel = channel
        self._residents = Residents(
            settings.device,
            settings.memory_bytes,
            Shelf(settings.device, settings.run_folder / file_hashes.FOLDER),
        )
        self._waiting: deque[ToChild] = deque()
        self._dressing = Dressing(settings)
        self._loader = Loader(settings, self._residents, self._dressing)
        self._told: tuple[frozenset[str], dict[str, str]] = (frozenset(), {})
        """The loaded models that the parent knows of, and what they wear."""

    def serve(self) -> None:
        """Until `Stop`. Raises `ParentGone`, `Unfit`."""
        self._channel.send(Ready(software=canary.software()))
        while True:
            message = self._waiting.popleft() if self._waiting else self._channel.receive()
            match message:
                case Run():
                    self._run(message.assignment)
                case Prepare():
                    self._prepare(message.model)
                case Unload():
                    self._unload(message.model_id)
                case Cancel():
                    pass  # the task ended before it arrived
                case Stop():
                    return
                case _:
                    assert_never(message)

    def _run(self, assignment: Assignment) -> None:
        """One task, and its one final message."""
        fail = partial(Failed, task_id=assignment.task_id, attempt=assignment.attempt)
        reporter = Reporter(self._channel, assignment)
        try:
            result = self._work(assignment, reporter)
            self._end(Done(task_id=assignment.task_id, attempt=assignment.attempt, result=result))
        except Cancelled:
            self._end(Stopped(task_id=assignment.task_id, attempt=assignment.attempt))
        except (ParentGone, Unfit):
            raise
        except UnusablePicture as error:
            log.warning("an unusable picture: %s", error.reason)
            stored = ErrorInfo.of(BadPicture(reason=error.reason))
            self._leave(fail(error=stored, retry=True, fatal=True))
        except Exception as error:  # the task's edge: whatever it was, it is reported
            if faults.classify(error) is faults.Fault.FATAL:
                log.exception("the device is lost")
                reason = "its device reported an error that only a new process can clear"
                stored = ErrorInfo.of(WorkerFailed(reason=reason))
                self._leave(fail(error=stored, retry=True, fatal=True, crashed=True))
            self._end(fail(error=_stored(error, assignment.model)))
        finally:
            self._waiting.extend(reporter.later)

    def _end(self, final: Done | Failed | Stopped) -> None:
        """What became of the task; before that, what it left in memory: the worker is free then."""
        self._tell_models()
        self._channel.send(final)

    def _tell_models(self) -> None:
        """What is in memory, if that has changed: a task may load one model and evict another."""
        loaded = self._residents.ids
        keys = self._dressing.keys(loaded)
        if self._told != (frozenset(loaded), keys):
            self._told = (frozenset(loaded), keys)
            self._channel.send(Models(loaded=loaded, lora_keys=keys))

    def _work(self, assignment: Assignment, reporter: Reporter) -> Result:
        about = {"task_id": assignment.task_id, "attempt": assignment.attempt}
        spec, residents = assignment.model, self._residents
        peak_memory.begin(self._settings.device)
        evictions, load_s = residents.evictions, 0.0
        # Before the model is read: then there is no question of room for both.
        made, said_of_map = self._control_map(assignment, reporter)
        pipeline = residents.find(spec)
        incomplete = pipeline is None or bool(pipeline.lacking(assignment.request))
        if incomplete:
            self._channel.send(Loading(**about, model=spec.id))
        began_at = time.perf_counter()
        pipeline = pipeline or self._loader.load(spec)
        kept = residents.degraded(spec.id)  # now: at the end the ladder may have unloaded it
        rungs_left = rungs(residents, pipeline, spec.id, in_tiles=spec.vae_tiling)
        with as_configured(pipeline, spec), Ladder(rungs_left) as ladder:
            if incomplete:
                complete = partial(self._loader.complete, spec, assignment.request)
                ladder.run(complete, useless=[TILING])
                load_s = time.perf_counter() - began_at
                self._tell_models()
            reporter.check_cancelled()
            self._channel.send(Started(**about))
            drawing = Drawing(assignment, pipeline, ladder, reporter, self._dressing, made)
            result = drawing.draw(load_s)
        peak = peak_memory.peak_bytes(self._settings.device)
        evicted = (EVICTED,) if residents.evictions > evictions else ()
        said = (*assignment.degraded, *said_of_map, *kept, *result.degraded, *evicted)
        return result.model_copy(
            update={"peak_bytes": peak, "degraded": tuple(dict.fromkeys(said))}
        )

    def _control_map(
        self, assignment: Assignment, reporter: Reporter
    ) -> tuple[Image.Image | None, tuple[Degraded, ...]]:
        """The map that the picture is to follow, where the request gave a photo instead; and what
        had to be done for it."""
        spec = assignment.preprocessor
        if spec is None:
            return None, ()
        about = {"task_id": assignment.task_id, "attempt": assignment.attempt}
        self._channel.send(Loading(**about, model=spec.id))
        preprocessor = self._residents.find(spec) or self._loader.load(spec)
        self._tell_models()
        with Ladder(rungs(self._residents, preprocessor, spec.id)) as ladder:
            made = ladder.run(lambda: control_map(assignment, preprocessor, reporter))
            return made, (*self._residents.degraded(spec.id), *ladder.taken)

    def _prepare(self, spec: ModelSpec) -> None:
        """Load ahead of demand. A failure is told again, to whoever asks for the model."""
        failed: ErrorInfo | None = None
        try:
            if self._residents.find(spec) is None:
                self._loader.load(spec)
        except Unfit:
            raise
        except Exception as error:  # this errand's edge
            if faults.classify(error) is faults.Fault.FATAL:
                log.exception("the device is lost")
                os._exit(FATAL_EXIT_CODE)
            failed = _stored(error, spec)
        self._tell_models()
        self._channel.send(Prepared(model_id=spec.id, error=failed))

    def _unload(self, model_id: str) -> None:
        """Give a model's memory back. A process that cannot is started anew, which does it too."""
        try:
            self._residents.unload(model_id)
        except Exception:  # this errand's edge: what is left in memory, nobody knows
            log.exception("cannot unload %s", model_id)
            os._exit(FATAL_EXIT_CODE)
        loaded = self._residents.ids
        keys = self._dressing.keys(loaded)
        self._told = (frozenset(loaded), keys)
        self._channel.send(Models(loaded=loaded, lora_keys=keys))

    def _leave(self, last_words: Failed) -> NoReturn:
        """Report and be gone, without the destructors of a device that is not to be trusted."""
        self._channel.send(last_words)
        os._exit(FATAL_EXIT_CODE)


def _stored(error: Exception, spec: ModelSpec) -> ErrorInfo:
    """What a task's ordinary error is stored as; a library's own words stay in the log."""
    if isinstance(error, GenServeError):
        return ErrorInfo.of(error)
    if isinstance(error, NoMemory) or faults.classify(error) is faults.Fault.OUT_OF_MEMORY:
        log.warning("%s ran out of memory on every rung", spec.id)
        return ErrorInfo.of(OutOfMemory(model=spec.id))
    log.error("the task failed", exc_info=error)
    return ErrorInfo.of(WorkerFailed(reason="an error in the model's code"))


def _take_device(settings: ChildSettings) -> IO[str]:
    """What holds the device while it is open. Raises `Unfit`."""
    try:
        return orphans.hold_device(settings.run_folder, settings.worker)
    except orphans.DeviceInUse as error:
        holder = f"process {error.pid}" if error.pid else "another process"
        raise Unfit(f"{settings.worker} is in use by {holder}") from None


def _import_families(settings: ChildSettings) -> None:
    """Find out now, not at the first task, whether the libraries work. Raises `Unfit`."""
    try:
        if settings.device == "cuda":
            from genserve.pipelines import gpu  # torch: only where there is a GPU to check

            gpu.check()
        for family in settings.families:
            registry.import_family(family)
    except Exception as error:
        log.exception("cannot start")
        reason = getattr(error, "reason", "its libraries cannot be imported; the log says why")
        raise Unfit(reason) from None


def main() -> int:
    """Run as `python -m genserve.workers.child SETTINGS`."""
    settings = ChildSettings.model_validate_json(sys.argv[1])
    orphans.die_with(settings.parent_pid)
    orphans.leave_signals_to_parent()
    os.set_inheritable(settings.fd, False)
    log_to_parent()
    with socket.socket(fileno=settings.fd) as sock:
        channel = Channel(sock)
        try:
            with _take_device(settings):
                _import_families(settings)
                Child(settings, channel).serve()
        except ParentGone:
            os._exit(0)  # nobody is left to wait for an orderly end
        except Unfit as error:
            channel.send(StartFailed(reason=error.reason))
            return UNFIT_EXIT_CODE
    return 0


if __name__ == "__main__":
    # Not sys.exit: taking torch down takes a second, and nothing is left to be saved.
    os._exit(main())
