"""Which of a worker's models nobody has asked for lately, and giving back what they take."""

import asyncio
from collections.abc import Callable, Collection


class LastUse:
    """When each model in memory was last of use. Pure; times in seconds of a monotonic clock."""

    def __init__(self, idle_s: float) -> None:
        """A model that was of no use for `idle_s` is due; 0: none ever is."""
        self._idle_s = idle_s
        self._since: dict[str, float] = {}

    def loaded(self, models: Collection[str], now: float) -> None:
        """These are in memory now: a new one counts as used, what is gone is forgotten."""
        self._since = {model: self._since.get(model, now) for model in models}

    def used(self, model: str, now: float) -> None:
        """It is of use now."""
        if model in self._since:
            self._since[model] = now

    def due(self, now: float) -> list[str]:
        """The models that were idle for too long."""
        if not self._idle_s:
            return []
        return [model for model, since in self._since.items() if now - since >= self._idle_s]

    def next_in_s(self, now: float) -> float | None:
        """How long until the next one is due; None when none will be."""
        if not self._idle_s or not self._since:
            return None
        return max(0.0, min(self._since.values()) + self._idle_s - now)


class IdleModels:
    """Watches one process's models on the event loop."""

    def __init__(self, idle_s: float, unload: Callable[[str], None]) -> None:
        """`unload` is called once for each model that was idle for `idle_s` seconds; 0: never."""
        self._last_use = LastUse(idle_s)
        self._unload = unload
        self._in_use: tuple[str, ...] = ()
        self._alarm: asyncio.TimerHandle | None = None

    def loaded(self, models: Collection[str]) -> None:
        """These are in memory now; none when the process is gone."""
        self._last_use.loaded(models, _now())
        self._watch()

    def in_use(self, *models: str) -> None:
        """A task works with these models from now on; none: no task does."""
        for one in (*self._in_use, *models):
            self._last_use.used(one, _now())
        self._in_use = models

    def _watch(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        next_in_s = self._last_use.next_in_s(_now())
        if next_in_s is None:
            self._alarm = None
        else:
            self._alarm = asyncio.get_running_loop().call_later(next_in_s, self._look)

    def _look(self) -> None:
        for model in self._last_use.due(_now()):
            self._last_use.used(model, _now())  # not due again before it is gone
            if model not in self._in_use:
                self._unload(model)
        self._watch()


def _now() -> float:
    return asyncio.get_running_loop().time()
