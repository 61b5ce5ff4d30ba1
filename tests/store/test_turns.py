"""The promises of turns.py: fair shares, no starvation, no inversion, ageing.

Each is tried with random owners, costs, weights and arrivals, against the store itself.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, cycle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, insert, update

from genserve.config import Queue
from genserve.store import schema, tasks
from genserve.store.database import Database
from tests.store.building import LANE, NOW, claim, new_task, read, write

ROOMY = Queue(max_tasks=10**6, max_per_owner=10**6, ageing_s=20)
AGEING_S = ROOMY.ageing_s
quick = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
_ids = count(1)


@dataclass(frozen=True)
class Given:
    """A task that was given to a worker."""

    owner: str
    cost: int
    number: int


class Lane:
    """A queue that tasks are put into and taken from, all in one transaction."""

    def __init__(self, conn: Connection, weights: dict[str, int]) -> None:
        self._conn = conn
        self.now = NOW
        self._costs: dict[str, tuple[str, int, int]] = {}
        self.turns: dict[str, float] = {}
        for table in reversed(schema.metadata.sorted_tables):
            conn.execute(delete(table))
        for owner, weight in weights.items():
            conn.execute(insert(schema.owners).values(id=owner, weight=weight, created_at=0))

    def put(self, owner: str, cost: int, priority: int = 0) -> str:
        """Insert a task; its id."""
        task = new_task(id=f"{next(_ids):09d}", owner=owner, cost_s=float(cost), priority=priority)
        tasks.insert(self._conn, task, now=self.now, queue=ROOMY)
        self._costs[task.id] = (owner, cost, len(self._costs))
        return task.id

    def take(self) -> Given | None:
        """Give the first task to a worker."""
        found = tasks.candidates(self._conn, LANE, limit=1)
        if not found:
            return None
        assert claim(self._conn, found[0].id, f"token-{found[0].id}") is not None
        return Given(*self._costs[found[0].id])

    def order(self) -> list[str]:
        """The waiting tasks, next one first."""
        return [c.id for c in tasks.candidates(self._conn, LANE, limit=1000)]

    def age(self, seconds: float) -> None:
        """Let time pass, and let waiting count."""
        self.now += seconds
        tasks.age(self._conn, now=self.now, queue=ROOMY)


costs = st.integers(1, 9)


@quick
@given(
    stock=st.lists(st.tuples(st.sampled_from("ab"), costs), min_size=20, max_size=60),
    weights=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    bursts=st.lists(st.integers(1, 5), min_size=1, max_size=10),
)
def test_owners_that_both_wait_get_equal_shares_at_all_times(
    database: Database,
    stock: list[tuple[str, int]],
    weights: tuple[int, int],
    bursts: list[int],
) -> None:
    """Inserts come in bursts between takes. Over every stretch in which both owners have tasks
    waiting, their work divided by weight differs by at most 2 x the largest cost / weight."""
    share = dict(zip("ab", weights, strict=True))

    def run(conn: Connection) -> list[tuple[Given, bool]]:
        lane, given_out = Lane(conn, share), []
        waiting = Counter[str]()
        rest = iter(stock)
        for burst in [*bursts, 10**6]:
            for owner, cost in _some(rest, burst):
                lane.put(owner, cost)
                waiting[owner] += 1
            for _ in range(1 if burst < 10**6 else 10**6):
                both = waiting["a"] > 0 and waiting["b"] > 0
                taken = lane.take()
                if taken is None:
                    break
                waiting[taken.owner] -= 1
                given_out.append((taken, both))
        return given_out

    given_out = write(database, run)
    largest = max(cost / share[owner] for owner, cost in stock)
    for stretch in _stretches(given_out):
        for begin in range(len(stretch)):
            work = dict.fromkeys(share, 0.0)
            for taken in stretch[begin:]:
                work[taken.owner] += taken.cost / share[taken.owner]
                assert abs(work["a"] - work["b"]) <= 2 * largest + 1e-9


def _some(rest: Iterator[tuple[str, int]], number: int) -> Iterator[tuple[str, int]]:
    for _, item in zip(range(number), rest, strict=False):
        yield item


def _stretches(given_out: list[tuple[Given, bool]]) -> list[list[Given]]:
    """Runs of tasks that were given out while both owners had tasks waiting."""
    runs: list[list[Given]] = [[]]
    for taken, both in given_out:
        if both:
            runs[-1].append(taken)
        elif runs[-1]:
            runs.append([])
    return runs


@quick
@given(backlog=st.integers(1, 60), cost=costs)
def test_a_backlog_delays_another_owner_by_one_task_only(
    database: Database, backlog: int, cost: int
) -> None:
    """One owner asks for one task at a time, another has a backlog from the start: they alternate,
    from the first to the last, however long the backlog is."""

    def run(conn: Connection) -> list[str]:
        lane = Lane(conn, {})
        for _ in range(backlog):
            lane.put("a", cost)
        owners: list[str] = []
        mine = None
        while backlog > owners.count("a"):
            mine = mine or lane.put("b", cost)
            taken = lane.take()
            assert taken is not None
            owners.append(taken.owner)
            mine = None if taken.owner == "b" else mine
        return owners

    owners = write(database, run)
    for begin in range(len(owners)):
        part = owners[begin:]
        assert abs(part.count("a") - part.count("b")) <= 2


@quick
@given(
    priority=st.integers(-1, 2),
    urgencies=st.lists(st.integers(-2, 2), min_size=1, max_size=3),
    asked=st.lists(st.tuples(st.integers(0, 2), costs), min_size=1, max_size=30),
    head_start=st.lists(costs, max_size=10),
)
def test_no_task_starves(
    database: Database,
    priority: int,
    urgencies: list[int],
    asked: list[tuple[int, int]],
    head_start: list[int],
) -> None:
    """Rivals ask for two tasks whenever one is given out, for ever: each gets at most what is
    promised before the task that was there first."""
    rivals = {f"rival-{n}": urgency for n, urgency in enumerate(urgencies)}
    largest = max([cost for _, cost in asked])

    def promised(rank: float, queue_time: float, urgency: int) -> float:
        return max(0.0, rank - urgency * AGEING_S - queue_time) + largest

    def run(conn: Connection) -> tuple[dict[str, float], Counter[str]]:
        lane = Lane(conn, {})
        for cost in [1, *head_start]:
            lane.put("earlier", cost, -3)
            lane.take()
        queue_time = float(sum(head_start))
        mine = lane.put("me", 1, priority)
        (candidate,) = tasks.candidates(conn, LANE, limit=9)
        assert (candidate.id, candidate.rank) == (mine, queue_time + priority * AGEING_S)
        bounds = {o: promised(candidate.rank, queue_time, u) for o, u in rivals.items()}
        got = Counter[str]()
        demand = cycle(asked)
        while True:
            for number, cost in (next(demand), next(demand)):
                owner = f"rival-{number % len(rivals)}"
                lane.put(owner, cost, rivals[owner])
            taken = lane.take()
            assert taken is not None
            if taken.owner == "me":
                return bounds, got
            got[taken.owner] += taken.cost
            assert got.total() <= sum(bounds.values())

    bounds, got = write(database, run)
    for owner, bound in bounds.items():
        assert got[owner] <= bound


@quick
@given(
    first=st.integers(0, 3),
    second=st.integers(0, 3),
    moved=st.lists(costs, max_size=15),
    waited=st.integers(0, 80),
)
def test_the_less_urgent_goes_first_only_after_its_time(
    database: Database, first: int, second: int, moved: list[int], waited: int
) -> None:
    """Two owners with nothing else: the earlier task is first if, and only if, queue time and
    waiting make up for its priority."""

    def run(conn: Connection) -> tuple[list[str], str, str, float]:
        lane = Lane(conn, {})
        early = lane.put("a", 1, first)
        for cost in moved:  # an urgent owner moves the queue's time
            lane.put("c", cost, -50)
            lane.take()
        lane.age(waited)
        late = lane.put("b", 1, second)
        return lane.order(), early, late, float(sum(moved[1:]))

    order, early, late, passed = write(database, run)
    handicap = max(0.0, first * AGEING_S - waited) - second * AGEING_S
    expected = early if handicap <= passed else late
    assert order[0] == expected


def test_waiting_lifts_a_task_to_priority_0_and_no_further(database: Database) -> None:
    def run(conn: Connection) -> list[list[str]]:
        lane = Lane(conn, {})
        low, high = lane.put("a", 1, 2), lane.put("b", 1, 0)
        seen = [[low, high], lane.order()]
        for seconds in (AGEING_S, AGEING_S, 100 * AGEING_S):
            lane.age(seconds)
            lane.put("c", 1, 1)
            seen.append(lane.order()[:2])
        return seen

    (low, high), *orders = write(database, run)
    assert orders[0] == [high, low]
    assert orders[1] == [high, low]
    assert orders[2] == [low, high]  # equal ranks: the older id is first
    assert orders[3] == [low, high]


def test_a_clock_that_jumps_back_undoes_no_waiting(database: Database) -> None:
    def run(conn: Connection) -> list[float]:
        lane = Lane(conn, {})
        lane.put("a", 1, 2)
        ranks = []
        for seconds in (AGEING_S, -5 * AGEING_S, 0):
            lane.age(seconds)
            ranks.append(tasks.candidates(conn, LANE, limit=1)[0].rank)
        return ranks

    assert write(database, run) == [AGEING_S, AGEING_S, AGEING_S]


def test_an_owner_that_was_away_has_no_credit_and_no_debt(database: Database) -> None:
    def run(conn: Connection) -> list[str]:
        lane = Lane(conn, {})
        lane.put("a", 5)
        for _ in range(20):
            lane.put("b", 5)
        for _ in range(21):
            lane.take()
        for owner in "abab":
            lane.put(owner, 5)
        return [taken.owner for taken in iter(lane.take, None) if taken]

    # b's last turn was given out: it owes nothing; a saved nothing up.
    assert write(database, run) == ["a", "b", "a", "b"]


def test_a_heavier_owner_gets_more(database: Database) -> None:
    def run(conn: Connection) -> str:
        lane = Lane(conn, {"a": 1, "b": 1})
        conn.execute(update(schema.owners).where(schema.owners.c.id == "b").values(weight=3))
        for _ in range(40):
            lane.put("a", 1)
            lane.put("b", 1)
        return "".join(taken.owner for taken in (lane.take() for _ in range(40)) if taken)

    assert write(database, run).count("b") == pytest.approx(30, abs=2)


def test_owner_names_that_need_care(database: Database) -> None:
    names = ["ann'; DROP TABLE tasks; --", "ä\u00a0%s :x", "名前"]
    for name in names:
        write(database, tasks.insert, new_task(owner=name), now=NOW, queue=ROOMY)
    assert len(read(database, tasks.candidates, LANE, limit=9)) == 3
