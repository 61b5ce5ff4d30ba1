"""Whatever is done to a pool in whatever order: every task ends once, and nothing is left."""

import asyncio
import os
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from genserve.config import Pool
from genserve.domain.pool import (
    Assignment,
    ModelNotLoaded,
    TaskDone,
    TaskFailed,
    TaskLoading,
    TaskProgress,
    TaskStarted,
    TaskStopped,
    WorkerState,
    WorkerUp,
)
from genserve.workers.pool import LocalPool
from tests.workers.conftest import PATIENCE_S, PoolUnderTest, is_alive

WORKERS = st.integers(0, 1)
BEHAVIOURS = st.sampled_from(
    ["", "fake:sleep=0.1", "fake:crash", "fake:fatal", "fake:error", "fake:constant", "fake:oom=1"]
)
Final = TaskDone | TaskFailed | TaskStopped


class AnySequence(RuleBasedStateMachine):
    """Drives two workers at random."""

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        self.given: list[Assignment] = []
        self.pids: set[int] = set()
        self.loop.run_until_complete(self._start())

    async def _start(self) -> None:
        quick = Pool(devices="cpu:2", restart_min_s=0.01, restart_max_s=0.05)
        self.pool = PoolUnderTest(LocalPool(quick, run_folder=self.folder / "run"), self.folder)
        await self.pool.pool.start()
        await self.pool.next(WorkerUp)

    @rule(behaviour=BEHAVIOURS)
    def submit(self, behaviour: str) -> None:
        self.given.append(self.pool.assignment(f"{len(self.given)} {behaviour}"))
        self.loop.run_until_complete(self._submit(self.given[-1]))

    async def _submit(self, task: Assignment) -> None:
        """Give it to the first worker that is idle; all come back sooner or later."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for worker in self.pool.pool.workers():
                    if worker.state is WorkerState.IDLE:
                        await self.pool.pool.submit(worker.id, task)
                        return
                await asyncio.sleep(0.002)

    @rule(worker=WORKERS)
    def prepare(self, worker: int) -> None:
        with suppress(LookupError):
            self.loop.run_until_complete(self.pool.pool.prepare(f"cpu-{worker}", self.pool.model()))

    @rule(worker=WORKERS)
    def unload(self, worker: int) -> None:
        self.loop.run_until_complete(self.pool.pool.unload(f"cpu-{worker}", "fake"))

    @rule(worker=WORKERS)
    def what_is_told_of_memory_is_true(self, worker: int) -> None:
        self.loop.run_until_complete(self._check_memory(worker))

    async def _check_memory(self, worker: int) -> None:
        """A task reads its model exactly when the worker does not say that it holds it."""
        info = await self.pool.until_state(WorkerState.IDLE, worker)
        # All that was sent before has come to an end when this one's own answer is here.
        last = self.pool.model(f"broken-{len(self.pool.events)}", on_load="error")
        await self.pool.pool.prepare(info.id, last)
        async with asyncio.timeout(PATIENCE_S):
            while not any(
                isinstance(event, ModelNotLoaded) and event.model == last.id
                for event in self.pool.events
            ):
                if self.pool.worker(worker).pid != info.pid:
                    return
                await asyncio.sleep(0.002)
        info = await self.pool.until_state(WorkerState.IDLE, worker)
        self.given.append(self.pool.assignment(f"{len(self.given)} check"))
        await self.pool.pool.submit(info.id, self.given[-1])
        await self.pool.end_of(self.given[-1])
        if self.pool.worker(worker).pid == info.pid:
            loading = any(
                isinstance(event, TaskLoading) and event.task_id == self.given[-1].task_id
                for event in self.pool.events
            )
            assert loading == ("fake" not in info.loaded)

    @rule(worker=WORKERS, number=st.integers(0, 3))
    def cancel(self, worker: int, number: int) -> None:
        for task in self.given[-number:]:
            cancel = self.pool.pool.cancel(f"cpu-{worker}", task.task_id, task.attempt)
            self.loop.run_until_complete(cancel)

    @rule(worker=WORKERS, by_signal=st.booleans())
    def kill(self, worker: int, by_signal: bool) -> None:
        pid = self.pool.worker(worker).pid
        if by_signal and pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        else:
            self.loop.run_until_complete(self.pool.pool.kill(f"cpu-{worker}"))

    @rule(seconds=st.sampled_from([0.0, 0.02, 0.2]))
    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @invariant()
    def no_task_ends_twice(self) -> None:
        self.pids |= {info.pid for info in self.pool.pool.workers() if info.pid}
        assert all(len(self.pool.ends(task)) <= 1 for task in self.given)

    @invariant()
    def a_busy_worker_alone_has_a_task(self) -> None:
        for info in self.pool.pool.workers():
            assert info.task_id is None or info.state is WorkerState.BUSY

    def teardown(self) -> None:
        self.loop.run_until_complete(self.pool.stop(drain_s=0.1))
        self.loop.close()
        self.temporary.cleanup()
        assert all(len(self.pool.ends(task)) == 1 for task in self.given)
        assert not any(is_alive(pid) for pid in self.pids)
        for task in self.given:
            self._check_order(task)

    def _check_order(self, task: Assignment) -> None:
        """Loading, started, progress upwards, and after the end nothing."""
        about = [
            event
            for event in self.pool.events
            if isinstance(event, TaskLoading | TaskStarted | TaskProgress | Final)
            and event.task_id == task.task_id
        ]
        assert isinstance(about[-1], Final)
        kinds = [type(event) for event in about[:-1]]
        ranks = [(TaskLoading, TaskStarted, TaskProgress).index(kind) for kind in kinds]
        assert ranks == sorted(ranks)
        steps = [event.step for event in about if isinstance(event, TaskProgress)]
        assert steps == list(range(1, len(steps) + 1))


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(
    max_examples=8,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
