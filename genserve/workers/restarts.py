"""When a process that died is started again, and when it is left alone. Pure bookkeeping."""

from dataclasses import dataclass

STARTS_BEFORE_BROKEN = 3
"""As often in a row may a process die before it is ready, for whatever reason."""
HEALTHY_S = 60.0
"""A process that lived so long, or finished a task, starts the back-off over."""
_MOST_DOUBLINGS = 32


@dataclass(slots=True)
class Restarts:
    """One worker's deaths. Durations in seconds; the back-off doubles from `min_s` to `max_s`."""

    min_s: float
    max_s: float
    count: int = 0
    """How often a process was started again."""
    _deaths: int = 0
    _failed_starts: int = 0

    def became_ready(self) -> None:
        """The process has started well."""
        self._failed_starts = 0

    def finished_task(self) -> None:
        """The process is of use: the next death is the first again."""
        self._deaths = 0

    def died(self, *, lived_s: float, was_ready: bool) -> None:
        """The process ended without being told to."""
        self._deaths = 1 if lived_s >= HEALTHY_S else self._deaths + 1
        self._failed_starts = 0 if was_ready else self._failed_starts + 1

    def asked_to_try(self) -> None:
        """Somebody says that it is worth another try."""
        self._failed_starts = 0

    @property
    def given_up(self) -> bool:
        """Whether it died at start too often in a row."""
        return self._failed_starts >= STARTS_BEFORE_BROKEN

    @property
    def delay_s(self) -> float:
        """How long to wait before the next start."""
        doubled: float = self.min_s * 2.0 ** min(max(self._deaths - 1, 0), _MOST_DOUBLINGS)
        return min(self.max_s, doubled)
