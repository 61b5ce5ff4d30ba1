"""One worker: a device, and the process on it, which is started again whenever it dies.

    STARTING ──Ready──► IDLE ◄──► BUSY            (a task, or a model read ahead of demand)
       ▲   └─never──┐     └──died──┴──► RESTARTING
       └──back-off──┼──────────────────────┘
                    └─not fit───► BROKEN          until `kill` asks for another try

Messages, alarms and commands are handled by plain functions on the event loop: each moves the
state and tells what happened before anything else can run.
"""

import asyncio
import logging

from pydantic import ValidationError

from genserve.domain.model import ModelSpec
from genserve.domain.pool import (
    Assignment,
    ModelNotLoaded,
    PoolEvent,
    TaskDone,
    WorkerChanged,
    WorkerDown,
    WorkerInfo,
    WorkerState,
    WorkerUp,
)
from genserve.workers import devices
from genserve.workers.deadlines import Deadline
from genserve.workers.held import HeldTask
from genserve.workers.idle_models import IdleModels
from genserve.workers.messages import (
    TO_PARENT,
    UNFIT_EXIT_CODE,
    Loading,
    Models,
    Prepare,
    Prepared,
    Ready,
    Run,
    StartFailed,
    Stop,
    ToChild,
    ToParent,
    Unload,
    to_line,
)
from genserve.workers.output import forward
from genserve.workers.process import ChildProcess, describe_exit
from genserve.workers.restarts import Restarts
from genserve.workers.surroundings import Surroundings
from genserve.workers.watch import TaskWatch

LAST_WORDS_S = 2.0
"""How long a process that is to end by itself may take to do so."""

log = logging.getLogger(__name__)


class LocalWorker:
    """Runs one task at a time in a process of its own. `live` must run as a task."""

    def __init__(self, device: devices.Device, around: Surroundings) -> None:
        self.id = device.name
        self._device = device
        self._around = around
        self._state = WorkerState.STARTING
        self._reason = ""
        self._unfit = False
        self._child: ChildProcess | None = None
        self._held: HeldTask | None = None
        self._loaded: tuple[str, ...] = ()
        self._lora_keys: dict[str, str] = {}
        self._loading = ""
        self._idle = IdleModels(around.settings.idle_unload_s, self._unload_idle)
        self._memory_used: int | None = None
        self._restarts = Restarts(around.settings.restart_min_s, around.settings.restart_max_s)
        self._deadline = Deadline(self._on_hung)
        self._watch = self._new_watch()
        self._stopping = False
        self._wake = asyncio.Event()
        self._free = asyncio.Event()
        self._free.set()

    def _new_watch(self) -> TaskWatch:
        return TaskWatch(
            self._around.settings,
            self._around.step_times,
            self._deadline,
            tell=self._tell,
            emit=self._around.emit,
            end=self._end_task,
        )

    def info(self) -> WorkerInfo:
        """The worker as it is now."""
        pid = self._child.pid if self._child else None
        return WorkerInfo(
            id=self.id,
            device=self._device.kind,
            device_name=self._device.full_name,
            state=self._state,
            pid=pid,
            loaded=self._loaded,
            loading=self._loading,
            lora_keys=self._lora_keys,
            memory_total=self._device.memory_bytes or None,
            memory_used=self._memory_used if pid else None,
            task_id=self._held.assignment.task_id if self._held else None,
            reason=self._reason,
            restarts=self._restarts.count,
        )

    async def sample_memory(self) -> None:
        """Find out how much memory is in use; a driver that hangs blocks a thread, not the loop."""
        if self._child is not None:
            self._memory_used = await asyncio.to_thread(
                devices.memory_used, self._device, self._child.pid
            )

    # Commands

    def submit(self, assignment: Assignment) -> None:
        """Give it a task. Raises `LookupError` when it is not idle."""
        self._take_up(Run(assignment=assignment))
        self._held = HeldTask(assignment, self.id)
        preprocessor = assignment.preprocessor
        self._idle.in_use(assignment.model.id, *([preprocessor.id] if preprocessor else []))
        self._deadline.set(self._around.settings.min_step_timeout_s, "taking the task")

    def prepare(self, model: ModelSpec) -> None:
        """Read a model ahead of demand. Raises `LookupError` when it is not idle."""
        self._take_up(Prepare(model=model))
        self._loading = model.id
        self._deadline.set(self._around.settings.load_timeout_s, "reading the model")

    def unload(self, model_id: str) -> None:
        """Give back a model's memory. The process does so between two tasks, in order."""
        self._tell(Unload(model_id=model_id))
        if self._state is WorkerState.IDLE:
            self._deadline.set(self._around.settings.min_step_timeout_s, "unloading a model")

    def _unload_idle(self, model_id: str) -> None:
        log.info("%s unloads %s, which nobody has asked for lately", self.id, model_id)
        self.unload(model_id)

    def _take_up(self, message: Run | Prepare) -> None:
        if self._state is not WorkerState.IDLE or self._stopping:
            raise LookupError(f"{self.id} is not idle")
        line = to_line(message)  # before anything changes: what cannot be written leaves it idle
        self._state = WorkerState.BUSY
        self._free.clear()
        if self._child is not None:
            self._child.write(line)

    def cancel(self, task_id: str, attempt: int) -> None:
        """Stop that attempt at its next step; nothing when it is not here any more."""
        if self._held is not None and self._held.is_about(task_id, attempt):
            self._held.cancelled = True
            self._watch.ask_to_stop(self._held)

    def kill(self) -> None:
        """End the process at once; it is started again, also when it was left broken."""
        if self._child is not None:
            self._child.kill()
        else:
            self._wake.set()

    def refuse_work(self) -> None:
        """Take no more tasks: the pool stops."""
        self._stopping = True

    async def wait_free(self) -> None:
        """Until no task is in hand."""
        await self._free.wait()

    def end(self) -> None:
        """Stop for good. A task still in hand is given back."""
        self._stopping = True
        self._wake.set()
        if self._child is None:
            return
        if self._state is WorkerState.IDLE:
            self._tell(Stop())
            self._deadline.set(LAST_WORDS_S, "ending")
            return
        if self._held is not None:
            self._held.returned = True
        self._child.kill()

    def abandon(self) -> None:
        """Leave the worker alone for good: the code that looks after it has failed."""
        child = self._child
        self._unfit = True
        self._on_down("an internal error; the log has it", lived_s=0, refused=True)
        if child is not None:
            child.kill()

    def _tell(self, message: ToChild) -> None:
        if self._child is not None:
            self._child.write(to_line(message))

    # Life

    async def live(self) -> None:
        """Keep a process on the device until `end`."""
        while not self._stopping:
            await self._one_process()
            if not self._stopping:
                await self._pause()
                self._restarts.count += 1
        self._state = WorkerState.STOPPED

    async def _pause(self) -> None:
        """Wait out the back-off; a broken worker waits until it is asked to try again."""
        broken = self._state is WorkerState.BROKEN
        try:
            await asyncio.wait_for(self._wake.wait(), None if broken else self._restarts.delay_s)
        except TimeoutError:
            return
        self._restarts.asked_to_try()

    async def _one_process(self) -> None:
        around, loop = self._around, asyncio.get_running_loop()
        self._state, self._reason, self._unfit = WorkerState.STARTING, "", False
        self._wake.clear()
        self._watch = self._new_watch()
        self._deadline.set(around.settings.start_timeout_s, "starting")
        began_at = loop.time()
        try:
            child = await around.start_child(
                self._device, restarted=self._restarts.count > 0, on_output=self._on_output
            )
        except OSError:
            log.exception("cannot start a process for %s", self.id)
            self._on_down("the process cannot be started", lived_s=0, refused=False)
            return
        self._child = child
        if self._stopping:
            child.kill()
        try:
            async for line in child.lines():
                self._on_line(line)
            code = await child.ended()
            refused = code == UNFIT_EXIT_CODE
            self._on_down(describe_exit(code), lived_s=loop.time() - began_at, refused=refused)
        finally:
            await child.close()

    def _on_output(self, line: str) -> None:
        forward(line, self.id, self._held.assignment.task_id if self._held else None)

    def _on_hung(self, reason: str) -> None:
        self._reason = self._reason or reason
        if self._child is not None:
            self._child.kill()

    def _on_down(self, how: str, *, lived_s: float, refused: bool) -> None:
        """The process is gone: tell the task's end first, then the worker's."""
        was_ready = self._state is not WorkerState.STARTING
        self._reason = self._reason or how
        self._deadline.clear()
        self._restarts.died(lived_s=lived_s, was_ready=was_ready)
        self._unfit |= self._restarts.given_up or (refused and not was_ready)
        self._child, self._loaded, self._loading = None, (), ""
        self._lora_keys = {}
        self._idle.loaded(())
        if self._held is not None:
            self._held.returned |= self._unfit
            self._end_task(self._held.lost(self._reason), WorkerState.RESTARTING)
        self._free.set()
        if self._stopping:
            self._state = WorkerState.STOPPED
        else:
            self._state = WorkerState.BROKEN if self._unfit else WorkerState.RESTARTING
            log.warning("%s is %s: %s", self.id, self._state.value, self._reason)
        self._around.emit(WorkerDown(worker=self.info()))

    # What the process says

    def _on_line(self, line: bytes) -> None:
        try:
            message = TO_PARENT.validate_json(line)
        except ValidationError:
            self._on_hung("it sent something that is no message")
            return
        self._on_message(message)

    def _on_message(self, message: ToParent) -> None:
        match message:
            case Ready():
                log.info("%s is ready: %s %s", self.id, self._device.full_name, message.software)
                self._restarts.became_ready()
                self._become_idle()
                self._around.emit(WorkerUp(worker=self.info()))
            case StartFailed():
                self._unfit, self._reason = True, message.reason
                self._deadline.set(LAST_WORDS_S, "ending")
            case Models():
                self._on_models(message)
            case Prepared():
                self._on_prepared(message)
            case _:
                held = self._held
                if held is not None and held.is_about(message.task_id, message.attempt):
                    held.acknowledged = True
                    self._loading = message.model if isinstance(message, Loading) else ""
                    self._watch.on_message(held, message)

    def _on_models(self, message: Models) -> None:
        loaded = message.loaded
        self._loaded, self._lora_keys = loaded, message.lora_keys
        self._watch.keep(loaded)
        if self._state is WorkerState.IDLE:
            self._deadline.clear()  # of an unload
        self._idle.loaded(loaded)
        self._around.emit(WorkerChanged(worker=self.info()))

    def _on_prepared(self, message: Prepared) -> None:
        self._loading = ""
        if self._state is WorkerState.BUSY and self._held is None:
            self._become_idle()
        if message.error is not None:
            self._around.emit(
                ModelNotLoaded(worker=self.id, model=message.model_id, error=message.error)
            )
        self._around.emit(WorkerChanged(worker=self.info()))

    def _become_idle(self) -> None:
        self._deadline.clear()
        self._state = WorkerState.IDLE
        self._free.set()

    def _end_task(self, event: PoolEvent, after: WorkerState) -> None:
        """Tell the task's one final event; the worker is already what it will be next."""
        if self._held is not None:
            self._held.forget_limit()
        self._held, self._loading = None, ""
        self._idle.in_use()
        self._state = after
        if isinstance(event, TaskDone):
            self._restarts.finished_task()
        if after is WorkerState.IDLE:
            self._become_idle()
        elif self._child is not None:
            self._deadline.set(LAST_WORDS_S, "ending")
        self._around.emit(event)
