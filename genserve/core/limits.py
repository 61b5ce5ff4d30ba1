"""How often a caller may ask: a moving window, so that no 60 seconds ever hold more than allowed.

Each caller's admitted requests are remembered one by one until they leave the window; that is
exact where counters per fixed window let twice the limit through at their border. Counts live in
this process, which is the only one that admits requests.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from genserve.config import Api
from genserve.errors import LimitReached, TooManyFailures

NS = 1_000_000_000
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
MAX_NAMES = 100_000
"""How many callers one window remembers. Beyond, the one that was quiet longest is forgotten: so
guesses from ever new addresses cannot fill the memory."""


@dataclass(frozen=True, slots=True)
class LimitState:
    """What is left of a limit. `reset_s`: seconds until one more request is free again."""

    limit: int
    window_s: int
    remaining: int
    reset_s: int


class MovingWindow:
    """Admits at most `limit` hits of one name in any `window_s` seconds.

    `clock` tells nanoseconds and never goes back: so setting the time locks nobody out. They are
    whole numbers, so that a request sent exactly at Retry-After is admitted.
    """

    def __init__(self, rate: str, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`rate` as in the configuration: "100/minute"."""
        number, _, unit = rate.partition("/")
        self.rate = rate
        self._limit = int(number)
        self._window_s = SECONDS[unit]
        self._window_ns = self._window_s * NS
        self._clock = clock
        self._hits: OrderedDict[str, deque[int]] = OrderedDict()

    def hit(self, name: str) -> tuple[bool, LimitState]:
        """Count a hit if it is admitted; whether it was, and what is left."""
        now = self._clock()
        hits = self._recent(name, now)
        admitted = len(hits) < self._limit
        if admitted:
            hits.append(now)
            self._hits[name] = hits
            self._hits.move_to_end(name)
            self._forget_quiet(now)
        return admitted, self._state(hits, now)

    def state(self, name: str) -> LimitState:
        """What is left, without counting anything."""
        now = self._clock()
        return self._state(self._recent(name, now), now)

    def _recent(self, name: str, now: int) -> deque[int]:
        hits = self._hits.get(name) or deque()
        while hits and hits[0] <= now - self._window_ns:
            hits.popleft()
        return hits

    def _forget_quiet(self, now: int) -> None:
        """Drop names whose last hit left the window; they stand first, in the order of it."""
        while self._hits:
            name, hits = next(iter(self._hits.items()))
            if hits and hits[-1] > now - self._window_ns and len(self._hits) <= MAX_NAMES:
                return
            del self._hits[name]

    def _state(self, hits: deque[int], now: int) -> LimitState:
        until_free_ns = hits[0] + self._window_ns - now if hits else 0
        return LimitState(
            limit=self._limit,
            window_s=self._window_s,
            remaining=self._limit - len(hits),
            reset_s=max(1, -(-until_free_ns // NS)),
        )


class Limits:
    """Requests per key, and failed authentications per address."""

    def __init__(self, api: Api, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._requests = MovingWindow(api.rate_limit, clock)
        self._failures = MovingWindow(api.auth_failure_limit, clock)

    def hit(self, key_digest: str) -> LimitState:
        """Count a request. Raises `LimitReached`; a refused request is not counted."""
        admitted, state = self._requests.hit(key_digest)
        if not admitted:
            raise LimitReached(limit=self._requests.rate, retry_after_s=state.reset_s)
        return state

    def check_auth_allowed(self, address: str) -> None:
        """Raises `TooManyFailures` while an address has failed too often."""
        state = self._failures.state(address)
        if state.remaining == 0:
            raise TooManyFailures(limit=self._failures.rate, retry_after_s=state.reset_s)

    def auth_failure(self, address: str) -> None:
        """Count a failed authentication from an address."""
        self._failures.hit(address)
