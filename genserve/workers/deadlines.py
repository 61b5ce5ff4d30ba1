"""How long a worker may be silent before it counts as hung.

Each phase has its own limit; a step's grows with what was seen, because a step takes
milliseconds on one machine and a minute on another:

    start     start_timeout_s       from the process's start to `Ready`
    answer    min_step_timeout_s    from being given a task to its first word
    load      load_timeout_s        from `Loading` to `Started`
    first     load_timeout_s        a process's first step with a model: compiles, warms caches
    step      max(min_step_timeout_s, step_timeout_factor x the model's slowest step so far)
    decode    decode_timeout_s      from the last step to the finished files

The time limit of a task is not among them: it is about work that goes on, not about silence.
"""

import asyncio
from collections.abc import Callable


class StepTimes:
    """The slowest step seen of each model, over all workers. Durations in seconds."""

    def __init__(self, *, min_timeout_s: float, factor: float) -> None:
        self._min_timeout_s = min_timeout_s
        self._factor = factor
        self._slowest_s: dict[str, float] = {}

    def saw(self, model_id: str, step_s: float) -> None:
        """A step of that model took so long."""
        self._slowest_s[model_id] = max(step_s, self._slowest_s.get(model_id, 0.0))

    def timeout_s(self, model_id: str) -> float:
        """How long the next step may take."""
        return max(self._min_timeout_s, self._factor * self._slowest_s.get(model_id, 0.0))


class Deadline:
    """One alarm at a time on the loop's monotonic clock; setting it again replaces it."""

    def __init__(self, on_expired: Callable[[str], None]) -> None:
        """`on_expired` gets what was waited for, in words."""
        self._on_expired = on_expired
        self._alarm: asyncio.TimerHandle | None = None

    def set(self, seconds: float, waiting_for: str) -> None:
        """Expire after `seconds` unless set or cleared before."""
        self.clear()
        reason = f"{waiting_for} took longer than {seconds:g} s"
        self._alarm = asyncio.get_running_loop().call_later(seconds, self._on_expired, reason)

    def at_most(self, seconds: float, waiting_for: str) -> None:
        """Expire after `seconds` or when it was to expire anyway, whichever is earlier."""
        now = asyncio.get_running_loop().time()
        if self._alarm is None or self._alarm.when() > now + seconds:
            self.set(seconds, waiting_for)

    def clear(self) -> None:
        """Wait for nothing."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
