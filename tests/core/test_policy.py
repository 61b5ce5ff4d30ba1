"""The decisions, over random queues: order, warmth within its bounds, poison."""

from hypothesis import given
from hypothesis import strategies as st

from genserve.core.policy import (
    GiveUp,
    Requeue,
    Warmth,
    after_failure,
    choose,
    cost_s,
    eta_s,
    warm_key,
    warmth,
)
from genserve.domain.pool import TaskFailed, WorkerInfo, WorkerState
from genserve.domain.request import GenerationRequest
from genserve.domain.task import ErrorInfo
from genserve.errors import StoreUnavailable
from genserve.store.tasks import Candidate

MODELS = ("a", "b", "c")
LORAS = ("", "x:1:None")
MAX_PASSES = 3


def worker(name: str, loaded: tuple[str, ...] = (), lora_key: str = "") -> WorkerInfo:
    return WorkerInfo(
        id=name,
        device="cpu",
        state=WorkerState.IDLE,
        loaded=loaded,
        lora_keys=dict.fromkeys(loaded, lora_key),
    )


workers = st.lists(
    st.tuples(st.sets(st.sampled_from(MODELS)), st.sampled_from(LORAS)), min_size=1, max_size=4
).map(
    lambda drawn: [
        worker(f"w{number}", tuple(sorted(loaded)), lora_key)
        for number, (loaded, lora_key) in enumerate(drawn)
    ]
)


@st.composite
def windows(draw: st.DrawFn, min_size: int = 0) -> list[Candidate]:
    ranks = sorted(draw(st.lists(st.floats(0, 1e6), min_size=min_size, max_size=12)))
    return [
        Candidate(
            id=f"t{number}",
            rank=rank,
            priority=draw(st.sampled_from([-1, 0, 5])),
            warm_key=warm_key(draw(st.sampled_from(MODELS)), draw(st.sampled_from(LORAS))),
            passed=draw(st.integers(0, MAX_PASSES)),
        )
        for number, rank in enumerate(ranks)
    ]


@given(windows(), workers)
def test_something_is_chosen_whenever_there_is_work_and_an_idle_worker(window, idle):
    choice = choose(window, idle, max_passes=MAX_PASSES)
    assert (choice is not None) == bool(window)
    assert choose(window, [], max_passes=MAX_PASSES) is None


@given(windows(min_size=1), workers)
def test_only_the_heads_priority_is_reordered_and_nobody_is_passed_too_often(window, idle):
    choice = choose(window, idle, max_passes=MAX_PASSES)
    assert choice is not None
    position = [candidate.id for candidate in window].index(choice.task_id)
    assert window[position].priority == window[0].priority
    overtaken = window[:position]
    assert choice.passed == tuple(candidate.id for candidate in overtaken)
    assert all(candidate.passed < MAX_PASSES for candidate in overtaken)
    assert all(candidate.priority == window[0].priority for candidate in overtaken)


@given(windows(min_size=1), workers)
def test_a_task_is_overtaken_only_by_a_warmer_one(window, idle):
    choice = choose(window, idle, max_passes=MAX_PASSES)
    assert choice is not None
    chosen_worker = next(w for w in idle if w.id == choice.worker_id)
    chosen = next(c for c in window if c.id == choice.task_id)
    reached = warmth(chosen.warm_key, chosen_worker)
    for candidate in window[: len(choice.passed)]:
        assert max(warmth(candidate.warm_key, w) for w in idle) < reached


@given(st.lists(windows(min_size=1), min_size=1, max_size=1), workers)
def test_the_head_starts_within_the_published_bound(drawn, idle):
    """However warm the tasks behind it are, the head is passed at most `max_passes` times."""
    waiting = [Candidate(c.id, c.rank, 0, c.warm_key, 0) for c in drawn[0]]
    head = waiting[0].id
    passes = 0
    while waiting:
        choice = choose(waiting, idle, max_passes=MAX_PASSES)
        assert choice is not None
        if choice.task_id == head:
            break
        passes += 1
        waiting = [
            Candidate(c.id, c.rank, c.priority, c.warm_key, c.passed + (c.id in choice.passed))
            for c in waiting
            if c.id != choice.task_id
        ]
        # Ever more warm work arrives behind.
        waiting.append(Candidate(f"n{passes}", 2e6 + passes, 0, warm_key("a", ""), 0))
    assert passes <= MAX_PASSES


def test_a_warm_task_goes_to_the_worker_that_holds_its_model():
    window = [Candidate("t", 1.0, 0, warm_key("b", "x:1:None"), 0)]
    idle = [worker("cold"), worker("model", ("b",)), worker("both", ("b",), "x:1:None")]
    choice = choose(window, idle, max_passes=MAX_PASSES)
    assert choice is not None
    assert choice.worker_id == "both"
    assert warmth(window[0].warm_key, idle[1]) is Warmth.MODEL_LOADED


def test_a_cold_task_goes_to_the_worker_that_holds_least():
    window = [Candidate("t", 1.0, 0, warm_key("c", ""), 0)]
    idle = [worker("full", ("a", "b")), worker("empty"), worker("half", ("a",))]
    choice = choose(window, idle, max_passes=MAX_PASSES)
    assert choice is not None
    assert choice.worker_id == "empty"


def failure(*, crashed: bool = False, retry: bool = False) -> TaskFailed:
    return TaskFailed(
        task_id="t",
        attempt=1,
        worker="w",
        token="k",
        error=ErrorInfo(code="bad_picture", params={"reason": "NaN"}),
        crashed=crashed,
        retry=retry,
    )


@given(st.integers(0, 5), st.integers(1, 5))
def test_a_task_that_kills_its_worker_is_given_up_exactly_at_the_limit(crashes, poison_after):
    decision = after_failure(failure(crashed=True), crashes=crashes, poison_after=poison_after)
    if crashes + 1 < poison_after:
        assert decision == Requeue(crashed=True)
    else:
        assert isinstance(decision, GiveUp)
        assert decision.error == ErrorInfo(code="poisoned", params={"crashes": crashes + 1})


def test_an_unusable_picture_is_tried_once_more_and_then_told():
    assert after_failure(failure(retry=True), crashes=0, poison_after=3) == Requeue(crashed=True)
    decision = after_failure(failure(retry=True), crashes=1, poison_after=3)
    assert decision == GiveUp(failure().error)
    assert after_failure(failure(), crashes=0, poison_after=3) == GiveUp(failure().error)


def test_a_full_disk_is_waited_out_however_often_it_takes():
    full = failure().model_copy(
        update={"error": ErrorInfo.of(StoreUnavailable(problem="disk full", retry_after_s=5))}
    )
    for crashes in (0, 2, 10):
        decision = after_failure(full, crashes=crashes, poison_after=3)
        assert isinstance(decision, Requeue)
        assert not decision.crashed
        assert decision.after_s > 0


def test_cost_counts_pictures_pixels_and_steps():
    request = GenerationRequest(model="a", prompt="p", width=1000, height=1000, steps=10, count=3)
    assert cost_s(request, 0.1) == 3.0


def test_an_eta_needs_a_basis():
    assert eta_s(4, 10.0, 2) == 20.0
    assert eta_s(4, None, 2) is None
    assert eta_s(4, 10.0, 0) is None
