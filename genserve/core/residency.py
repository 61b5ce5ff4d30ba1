"""Which model is in whose memory: what workers load ahead of demand, and give back when told to.

A load is an errand for one worker. It is handed over when that worker is idle, before the next
task, and only once: a model that cannot be read, or that ends the process, is not tried for ever.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from genserve.core.catalog import Catalog
from genserve.domain.model import ModelSpec
from genserve.domain.pool import (
    ModelNotLoaded,
    WorkerChanged,
    WorkerDown,
    WorkerInfo,
    WorkerPool,
    WorkerState,
    WorkerUp,
)
from genserve.domain.task import ErrorInfo
from genserve.errors import ConfigError, GenServeError, UnknownModel, WorkerFailed

log = logging.getLogger(__name__)

GONE = frozenset({WorkerState.BROKEN, WorkerState.STOPPED})
"""Such a worker comes back only when somebody looks after it."""


class Outcome(StrEnum):
    """What became of one worker's part in a load or unload."""

    LOADED = "loaded"
    ALREADY_LOADED = "already_loaded"
    LOADING = "loading"
    UNLOADED = "unloaded"
    UNLOADING = "unloading"
    NOT_LOADED = "not_loaded"
    QUEUED = "queued"
    """It is busy, or starting: it does so afterwards."""
    FAILED = "failed"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Report:
    """One worker's outcome. `error`: why it failed."""

    worker: str
    outcome: Outcome
    error: ErrorInfo | None = None


@dataclass(slots=True)
class _Errand:
    """A model that one worker is to load. `pid` of the process that it was handed to."""

    worker_id: str
    spec: ModelSpec
    done: asyncio.Future[Report]
    pid: int | None = None

    def end(self, outcome: Outcome, error: ErrorInfo | None = None) -> None:
        if not self.done.done():
            self.done.set_result(Report(self.worker_id, outcome, error))


@dataclass(slots=True)
class _Unloading:
    """A worker that was told to unload a model."""

    worker_id: str
    model_id: str
    done: asyncio.Future[Report]


class Residency:
    """Loads and unloads on demand. `noticed` must be told what happens to the workers."""

    def __init__(
        self, pool: WorkerPool, *, preload: Sequence[ModelSpec], wake: Callable[[], None]
    ) -> None:
        """`preload`: what each worker process is to load as soon as nothing waits. `wake` has
        `tend` called soon."""
        self._pool = pool
        self._preload = tuple(preload)
        self._preloaded: set[tuple[int | None, str]] = set()
        self._outdated: set[tuple[int | None, str]] = set()
        """Models by their process that were read before their files changed."""
        self._wake = wake
        self._errands: list[_Errand] = []
        self._unloading: list[_Unloading] = []

    # On demand

    async def load(self, spec: ModelSpec, *, wait: bool = True) -> list[Report]:
        """Have every worker load the model: idle ones now, busy ones after their task.

        `wait`: for those that are idle now, until they have.
        """
        reports: list[Report] = []
        errands: list[_Errand] = []
        for worker in self._pool.workers():
            if worker.state in GONE:
                reports.append(Report(worker.id, Outcome.UNAVAILABLE))
            elif self._holds(worker, spec):
                reports.append(Report(worker.id, Outcome.ALREADY_LOADED))
            elif worker.state is WorkerState.IDLE:
                errands.append(self._errand(worker.id, spec))
            else:
                self._errand(worker.id, spec)
                reports.append(Report(worker.id, Outcome.QUEUED))
        self._wake()
        if wait:
            reports += await asyncio.gather(*(asyncio.shield(one.done) for one in errands))
        else:
            reports += [Report(one.worker_id, Outcome.LOADING) for one in errands]
        return sorted(reports, key=lambda report: report.worker)

    async def unload(self, model_id: str, *, wait: bool = True) -> list[Report]:
        """Have every worker give back the model's memory; a load that still waits is dropped.

        `wait`: for those that are idle now, until they have.
        """
        self._drop(model_id)
        reports: list[Report] = []
        told: list[_Unloading] = []
        for worker in self._pool.workers():
            if model_id not in (*worker.loaded, worker.loading):
                reports.append(Report(worker.id, Outcome.NOT_LOADED))
                continue
            if worker.state is WorkerState.IDLE:
                told.append(self._expect_unload(worker.id, model_id))
            else:
                reports.append(Report(worker.id, Outcome.QUEUED))
            await self._pool.unload(worker.id, model_id)
        if wait:
            reports += await asyncio.gather(*(asyncio.shield(one.done) for one in told))
        else:
            reports += [Report(one.worker_id, Outcome.UNLOADING) for one in told]
        return sorted(reports, key=lambda report: report.worker)

    async def follow(
        self, preload: Sequence[ModelSpec], gone: Sequence[str], renewed: Sequence[str]
    ) -> None:
        """The models on disk have changed: load these ahead from now on, unload what is gone.

        What was loaded, loaded ahead or tried counts no longer when it is another model by now:
        `renewed` are the ids whose files have changed.
        """
        workers = {worker.pid: worker for worker in self._pool.workers()}
        self._outdated = {(pid, model) for pid, model in self._outdated if pid in workers} | {
            (pid, model)
            for pid, worker in workers.items()
            for model in renewed
            if model in (*worker.loaded, worker.loading)
        }
        same = {spec.id for spec in preload if spec in self._preload}
        self._preloaded = {(pid, model) for pid, model in self._preloaded if model in same}
        self._preload = tuple(preload)
        for model_id in gone:
            await self.unload(model_id, wait=False)
        self._wake()

    def _holds(self, worker: WorkerInfo, spec: ModelSpec) -> bool:
        """Whether the model is in memory as it is on disk.

        A task may have read it anew without anybody's noticing here: then it is looked at once more
        than needed, which reads nothing.
        """
        return spec.id in worker.loaded and (worker.pid, spec.id) not in self._outdated

    def _errand(self, worker_id: str, spec: ModelSpec) -> _Errand:
        """The errand there is already, or a new one."""
        for errand in self._errands:
            if (errand.worker_id, errand.spec.id) == (worker_id, spec.id):
                return errand
        done: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        errand = _Errand(worker_id, spec, done)
        self._errands.append(errand)
        return errand

    def _drop(self, model_id: str) -> None:
        for errand in self._errands:
            if errand.spec.id == model_id and errand.pid is None:
                errand.end(Outcome.NOT_LOADED)
        self._forget_ended()

    def _expect_unload(self, worker_id: str, model_id: str) -> _Unloading:
        done: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        unloading = _Unloading(worker_id, model_id, done)
        self._unloading.append(unloading)
        return unloading

    # Handing over

    async def tend(self, idle: Sequence[WorkerInfo]) -> list[WorkerInfo]:
        """Give each idle worker its next errand; those that have none and are free for tasks."""
        free: list[WorkerInfo] = []
        for worker in idle:
            errand = self._next(worker)
            if errand is None:
                free.append(worker)
            else:
                await self._hand_over(errand, worker)
        return free

    def _next(self, worker: WorkerInfo) -> _Errand | None:
        for errand in self._errands:
            if errand.worker_id == worker.id and errand.pid is None:
                if not self._holds(worker, errand.spec):
                    return errand
                errand.end(Outcome.LOADED)  # a task has loaded it meanwhile
        self._forget_ended()
        return None

    async def _hand_over(self, errand: _Errand, worker: WorkerInfo) -> None:
        errand.pid = worker.pid
        try:
            await self._prepare(worker, errand.spec)
        except LookupError:  # it went down, or is not idle any more: at the next chance
            errand.pid = None
        except Exception:  # the errand's edge: somebody may wait for its end
            log.exception("cannot have %s load %s", worker.id, errand.spec.id)
            errand.end(Outcome.FAILED, ErrorInfo.of(GenServeError()))

    async def _prepare(self, worker: WorkerInfo, spec: ModelSpec) -> None:
        """Raises `LookupError`."""
        await self._pool.prepare(worker.id, spec)
        self._outdated.discard((worker.pid, spec.id))

    async def preload(self, idle: Sequence[WorkerInfo]) -> None:
        """Nothing waits: have idle workers load the models that they should hold."""
        for worker in idle:
            # Once for each process: what cannot be read must not be tried for ever.
            missing = [
                spec for spec in self._preload if (worker.pid, spec.id) not in self._preloaded
            ]
            if missing:
                self._preloaded.add((worker.pid, missing[0].id))
                if self._holds(worker, missing[0]):
                    self._wake()  # for the next one
                    continue
                with suppress(LookupError):  # it went down, or is not idle any more
                    await self._prepare(worker, missing[0])

    # Following up

    def noticed(self, event: WorkerUp | WorkerChanged | WorkerDown | ModelNotLoaded) -> None:
        """Something happened to a worker: end what that settles."""
        match event:
            case ModelNotLoaded():
                reason = event.error.params.get("reason", event.error.code)
                log.error("%s cannot load %s: %s", event.worker, event.model, reason)
                self._settle_failed(event)
            case WorkerDown():
                self._settle_down(event.worker)
            case WorkerUp() | WorkerChanged():
                pass
            case _:
                assert_never(event)
        self._settle()
        self._forget_ended()

    def _settle_failed(self, event: ModelNotLoaded) -> None:
        for errand in self._errands:
            handed = errand.pid is not None
            if handed and (errand.worker_id, errand.spec.id) == (event.worker, event.model):
                errand.end(Outcome.FAILED, event.error)

    def _settle_down(self, gone: WorkerInfo) -> None:
        """The process that had the errand is gone, or no process will come to have it."""
        error = ErrorInfo.of(WorkerFailed(reason=gone.reason))
        now = {worker.id: worker for worker in self._pool.workers()}[gone.id]
        for errand in self._errands:
            lost = now.pid != errand.pid if errand.pid is not None else now.state in GONE
            if errand.worker_id == gone.id and lost:
                errand.end(Outcome.FAILED, error)

    def _settle(self) -> None:
        """By what is in memory now: an event may be older than the errand."""
        workers = {worker.id: worker for worker in self._pool.workers()}
        for errand in self._errands:
            worker = workers[errand.worker_id]
            # Busy with it until `loading` is over: who hears "loaded" may go on at once.
            if self._holds(worker, errand.spec) and worker.loading != errand.spec.id:
                errand.end(Outcome.LOADED)
        for one in self._unloading:
            if one.model_id not in workers[one.worker_id].loaded:
                one.done.set_result(Report(one.worker_id, Outcome.UNLOADED))

    def _forget_ended(self) -> None:
        self._errands = [errand for errand in self._errands if not errand.done.done()]
        self._unloading = [one for one in self._unloading if not one.done.done()]


def preloads(catalog: Catalog, model_ids: Sequence[str]) -> list[ModelSpec]:
    """What `pool.preload` names, without what is not installed or broken, which is told in the log.

    Raises `ConfigError` for an id that the configuration does not have.
    """
    specs: dict[str, ModelSpec] = {}
    for model_id in model_ids:
        try:
            spec = catalog.serving(model_id).spec
        except UnknownModel:
            raise ConfigError(problem=f"pool.preload: there is no model {model_id}") from None
        except GenServeError as error:
            log.error("cannot preload %s: %s", model_id, error)
        else:
            specs[spec.id] = spec
    return list(specs.values())
