"""The fake family: no weights and no torch, and it misbehaves on demand.

For tests and benchmarks; reachable only when the configuration names a model of this family. It
draws a gradient whose colours come from the seed and the prompt. Words in the prompt make it
misbehave; the behaviours marked * take `=N`: then only in a task's first N attempts.

    fake:sleep=0.5        half a second in all, spread over the steps
    fake:slow_step=0.5    half a second for each step
    fake:oom=2            the first two tries run out of memory (each rung of the ladder is a try)
    fake:crash *          killed by a signal in the first step
    fake:exit *           ends with exit code 1 in the first step
    fake:hang *           sleeps for ever in the first step
    fake:hang_later *     the same in the second step
    fake:hang_in_c *      the same inside C code that holds the interpreter's lock
    fake:fatal *          a CUDA error after which the process must not go on
    fake:error *          an ordinary exception
    fake:no_memory *      out of memory on every rung
    fake:nan *            numbers that are not finite
    fake:constant *       every pixel is the same

`fake:crash_attempts=2` is `fake:crash=2`, and so for each of them. While a model is read, there
is no prompt: `options` of its spec name the behaviour: `load_s: 0.5`, `on_load: exit` (or crash,
hang, oom, fatal, error), `size_bytes: 1000` (what it pretends to take).
"""

import ctypes
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from genserve.domain.model import ModelSpec, Offload
from genserve.domain.request import GenerationRequest, ImageRole
from genserve.pipelines.base import DeviceKind, Hook, Stage, UnusablePicture
from genserve.pipelines.shelf import Shelf

_WORD = re.compile(r"fake:([a-z_]+)(?:=([0-9.]+))?")
_LONG_S = 3600


class OutOfMemoryError(RuntimeError):
    """Named and worded as torch's."""


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit() -> None:
    os._exit(1)


def _hang() -> None:
    time.sleep(_LONG_S)


def _hang_in_c() -> None:
    ctypes.PyDLL(None).sleep(_LONG_S)  # PyDLL: the call keeps the interpreter's lock


def _fatal() -> None:
    raise RuntimeError("CUDA error: device-side assert triggered")


def _error() -> None:
    raise ValueError("fake:error was asked for")


def _oom() -> None:
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 640.00 MiB")


def _nan() -> None:
    raise UnusablePicture("the latents are not finite numbers")


_FIRST_STEP: dict[str, Callable[[], None]] = {
    "crash": _crash,
    "exit": _exit,
    "hang": _hang,
    "hang_in_c": _hang_in_c,
    "fatal": _fatal,
    "error": _error,
    "no_memory": _oom,
    "nan": _nan,
}
_ON_LOAD: dict[str, Callable[[], None]] = {**_FIRST_STEP, "oom": _oom}


class Fake:
    """Draws gradients."""

    distilled_guidance = False

    def __init__(self) -> None:
        self._size_bytes = 0
        self._hook: Hook | None = None
        self._tries = 0

    def load(self, spec: ModelSpec, device: DeviceKind, shelf: Shelf) -> None:
        """Take the time and do the mischief that the spec's options ask for."""
        time.sleep(float(spec.options.get("load_s", 0)))
        self._size_bytes = int(spec.options.get("size_bytes", 0))
        behaviour = spec.options.get("on_load")
        if behaviour is not None:
            _ON_LOAD[str(behaviour)]()

    def parts(self) -> Mapping[str, Any]:
        """There are no networks."""
        return {}

    def lacking(self, request: GenerationRequest) -> Mapping[Path, Callable[[], object]]:
        """Nothing."""
        return {}

    def generate(
        self,
        request: GenerationRequest,
        seed: int,
        inputs: Mapping[ImageRole, Image.Image],
        hook: Hook,
    ) -> Image.Image:
        """Draw a gradient, unless the prompt asks for worse."""
        wishes = _wishes(request.prompt, hook.attempt)
        steps = request.steps or 1
        step_s = wishes.get("slow_step", 0.0) + wishes.get("sleep", 0.0) / steps
        hook.stage(Stage.TEXT)
        self._run_out_of_memory(hook, wishes.get("oom", 0))
        hook.stage(Stage.DENOISE)
        for step in range(1, steps + 1):
            if step == 1:
                for behaviour in wishes.keys() & _FIRST_STEP.keys():
                    _FIRST_STEP[behaviour]()
            if step == 2 and "hang_later" in wishes:
                _hang()
            if step_s:
                time.sleep(step_s)
            hook.preview(lambda: _gradient(f"{seed} {request.prompt}", (32, 32), None))
            hook.step(step, steps)
        hook.stage(Stage.DECODE)
        size = (request.width or 64, request.height or 64)
        if "constant" in wishes:
            return Image.new("RGB", size, "black")
        given = (inputs[role] for role in (ImageRole.INIT, ImageRole.CONTROL) if role in inputs)
        return _gradient(f"{seed} {request.prompt}", size, next(given, None))

    def _run_out_of_memory(self, hook: Hook, times: float) -> None:
        if hook is not self._hook:  # another task
            self._hook, self._tries = hook, 0
        self._tries += 1
        if self._tries <= times:
            _oom()

    @contextmanager
    def low_memory(self) -> Iterator[None]:
        """Nothing to save; but it is a rung, so that the ladder can be tested."""
        yield

    def offloaded(self, how: Offload) -> AbstractContextManager[None] | None:
        """Nothing waits outside; but these are rungs too."""
        return nullcontext()

    def size_bytes(self) -> int:
        """What the spec's option of that name says."""
        return self._size_bytes

    def unload(self) -> None:
        """Nothing is held."""


def _wishes(prompt: str, attempt: int) -> dict[str, float]:
    """The behaviours that the prompt asks for in this attempt, with their values."""
    wishes: dict[str, float] = {}
    for name, value in _WORD.findall(prompt):
        behaviour = name.removesuffix("_attempts")
        limited = behaviour in {*_FIRST_STEP, "constant", "hang_later"} and value
        if not limited or attempt <= float(value):
            wishes[behaviour] = float(value or 0)
    return wishes


def _gradient(seed: str, size: tuple[int, int], given: Image.Image | None) -> Image.Image:
    chance = random.Random(seed)
    dark, light = ([chance.randrange(low, low + 96) for _ in range(3)] for low in (0, 160))
    ramp = Image.linear_gradient("L").rotate(chance.choice((0, 90, 180, 270)))
    image = ImageOps.colorize(ramp, tuple(dark), tuple(light)).resize(size)
    return image if given is None else Image.blend(given, image, 0.5)
