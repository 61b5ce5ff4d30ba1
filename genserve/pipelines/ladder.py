"""Out of memory is a ladder: each rung asks for less, and the answer says which were taken."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TypeVar

from genserve.domain.task import Degraded
from genserve.pipelines import faults

T = TypeVar("T")


class NoMemory(Exception):
    """Every rung was tried."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to need less memory. `take` holds it for the rest of the task; None: no use here."""

    code: str
    detail: str
    take: Callable[[], AbstractContextManager[None] | None]


class Ladder:
    """The rungs of one task: one that was taken stays taken for its later pictures."""

    def __init__(self, rungs: Sequence[Rung]) -> None:
        self._left = list(rungs)
        self._held = ExitStack()
        self._taken: list[Degraded] = []

    @property
    def taken(self) -> tuple[Degraded, ...]:
        """The rungs that were needed so far."""
        return tuple(self._taken)

    def __enter__(self) -> "Ladder":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def run(self, draw: Callable[[], T], *, useless: Collection[str] = ()) -> T:
        """`draw`, again from each next rung while it runs out of memory. Raises `NoMemory`.

        The rungs of these codes would not help it: they are left for later.
        """
        while (outcome := _attempt(draw)) is None:
            # Here no exception holds the frames and their tensors any more.
            faults.release_memory()
            self._descend(useless)
        return outcome[0]

    def _descend(self, useless: Collection[str]) -> None:
        for rung in [rung for rung in self._left if rung.code not in useless]:
            self._left.remove(rung)
            held = rung.take()
            if held is not None:
                self._held.enter_context(held)
                self._taken.append(Degraded(code=rung.code, detail=rung.detail))
                return
        raise NoMemory


def _attempt(draw: Callable[[], T]) -> tuple[T] | None:
    """The outcome, or None when memory ran out."""
    try:
        return (draw(),)
    except Exception as error:
        if faults.classify(error) is not faults.Fault.OUT_OF_MEMORY:
            raise
        return None
