"""Never more than the limit in any window, and a retry at Retry-After succeeds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genserve.config import Api
from genserve.core import limits as module
from genserve.core.limits import NS, Limits, MovingWindow
from genserve.errors import LimitReached, TooManyFailures


class Clock:
    """A time in nanoseconds that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000 * NS

    def __call__(self) -> int:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += round(seconds * NS)


pauses = st.lists(
    st.one_of(st.just(0.0), st.floats(0, 3), st.sampled_from([59.99, 60.0, 60.01])), max_size=300
)


@given(pauses, st.integers(1, 8))
def test_no_window_ever_holds_more_than_the_limit(pauses: list[float], limit: int):
    clock = Clock()
    window = MovingWindow(f"{limit}/minute", clock)
    admitted: list[int] = []
    for pause in pauses:
        clock.pass_by(pause)
        if window.hit("key")[0]:
            admitted.append(clock.now)
        else:
            since = [moment for moment in admitted if moment > clock.now - 60 * NS]
            assert len(since) == limit, "refused although the window was not full"
    for first, beyond in zip(admitted, admitted[limit:], strict=False):
        assert beyond - first >= 60 * NS


@given(pauses)
def test_a_request_at_retry_after_succeeds_and_the_state_is_true(pauses: list[float]):
    clock = Clock()
    limits = Limits(Api(rate_limit="3/minute"), clock)
    waits_s: list[float] = []
    for pause in pauses:
        clock.pass_by(pause)
        try:
            state = limits.hit("key")
        except LimitReached as refused:
            waits_s.append(refused.retry_after_s or 0)
            clock.pass_by(waits_s[-1])
            state = limits.hit("key")
        assert 0 <= state.remaining < 3
        assert 1 <= state.reset_s <= 60
    assert all(1 <= wait_s <= 60 for wait_s in waits_s)


def test_the_state_counts_down_and_keys_do_not_share():
    limits = Limits(Api(rate_limit="100/minute"))
    assert [limits.hit("a").remaining for _ in range(3)] == [99, 98, 97]
    other = limits.hit("b")
    assert (other.limit, other.window_s, other.remaining) == (100, 60, 99)


def test_an_address_that_fails_too_often_is_refused_others_are_not():
    limits = Limits(Api(auth_failure_limit="5/minute"))
    for _ in range(5):
        limits.check_auth_allowed("1.2.3.4")
        limits.auth_failure("1.2.3.4")
    with pytest.raises(TooManyFailures):
        limits.check_auth_allowed("1.2.3.4")
    limits.check_auth_allowed("1.2.3.5")


def test_quiet_names_are_forgotten_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch):
    clock = Clock()
    window = MovingWindow("5/minute", clock)
    for number in range(1000):
        window.hit(f"early {number}")
    clock.pass_by(61)
    window.hit("late")
    assert len(window._hits) == 1
    monkeypatch.setattr(module, "MAX_NAMES", 10)
    for number in range(1000):
        window.hit(f"flood {number}")
    assert len(window._hits) <= 11
