"""Random moves by many hands, compared with a small model after each step, on both databases."""

from collections import Counter
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, select

from genserve.config import Queue
from genserve.domain.task import Outcome, TaskState
from genserve.errors import OwnerQueueFull, QueueFull
from genserve.store import schema, tasks
from genserve.store.database import Database
from tests.store import building
from tests.store.building import ERROR, NOW, digest, file, picture, read, result, write
from tests.store.queue_model import Full, ModelTask, QueueModel

LIMITS = Queue(max_tasks=7, max_per_owner=4, ageing_s=8)
LANES = ("local", "provider:x")
FILES = ("a", "b", "c")
SIZES = {digest(name): 10 * (number + 1) for number, name in enumerate(FILES)}
file_names = st.lists(st.sampled_from(FILES), max_size=2)


class QueueMachine(RuleBasedStateMachine):
    """The store and the model side by side."""

    ids = Bundle("ids")
    tokens = Bundle("tokens")

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.now = NOW
        self.number = 0
        self.model = QueueModel(
            max_tasks=LIMITS.max_tasks, max_per_owner=LIMITS.max_per_owner, ageing_s=LIMITS.ageing_s
        )
        self.model.sizes = SIZES
        write(database, _empty)

    @rule(
        target=ids,
        owner=st.sampled_from(["ann", "bob", "eve"]),
        lane=st.sampled_from(LANES),
        priority=st.integers(-2, 2),
        cost=st.integers(1, 5),
        files=file_names,
    )
    def insert(self, owner: str, lane: str, priority: int, cost: int, files: list[str]) -> Any:
        self.number += 1
        new = building.new_task(
            *(file(name, SIZES[digest(name)]) for name in files),
            id=f"{self.number:06d}",
            owner=owner,
            lane=lane,
            priority=priority,
            cost_s=float(cost),
        )
        try:
            expected = self.model.insert(
                new.id,
                owner=owner,
                lane=lane,
                priority=priority,
                cost=float(cost),
                inputs=[digest(name) for name in files],
                now=self.now,
            )
        except Full:
            with pytest.raises((QueueFull, OwnerQueueFull)):
                write(self.database, tasks.insert, new, now=self.now, queue=LIMITS)
            return multiple()
        inserted = write(self.database, tasks.insert, new, now=self.now, queue=LIMITS)
        assert inserted == tasks.Inserted(new.id, replayed=False, rank=expected.rank)
        return new.id

    @rule(target=tokens, id=ids)
    def claim(self, id: str) -> str:
        token = str(uuid4())
        task = self.model.tasks.get(id)
        got = write(self.database, building.claim, id, token, now=self.now)
        if task is None or not self.model.claim(task, token):
            assert got is None
        else:
            assert got is not None
            assert (got.state, got.attempt) == (TaskState.PROCESSING, task.attempt)
            assert (got.worker, got.resolved is not None) == ("gpu-0", True)
        return token

    @rule(target=tokens, lane=st.sampled_from(LANES))
    def claim_next(self, lane: str) -> Any:
        first = read(self.database, tasks.candidates, lane, limit=1)
        return self.claim(first[0].id) if first else multiple()

    @rule(id=ids, token=tokens, own=st.booleans())
    def start(self, id: str, token: str, own: bool) -> None:
        task, token = self._task(id), self._token(id, token, own=own)
        holds = self.model.holds(task, token)
        assert write(self.database, tasks.started, id, token, self.now) is holds
        if holds and task.started_at is None:
            task.started_at = self.now

    @rule(id=ids, token=tokens, own=st.booleans(), names=file_names)
    def finish(self, id: str, token: str, own: bool, names: list[str]) -> None:
        task, token = self._task(id), self._token(id, token, own=own)
        moved = self.model.holds(task, token)
        expected = self.model.end(task, token, TaskState.COMPLETED, self.now)
        if moved:
            task.images = [digest(name) for name in names]
            self.model.finished[task.owner] += 1
        outcome = result(*(picture(name, SIZES[digest(name)]) for name in names))
        assert write(self.database, tasks.finish, id, token, outcome, now=self.now) is expected

    @rule(id=ids, token=tokens, own=st.booleans(), lost=st.booleans())
    def fail(self, id: str, token: str, own: bool, lost: bool) -> None:
        task, token = self._task(id), self._token(id, token, own=own)
        task.crashes += lost and self.model.holds(task, token)
        expected = self.model.end(task, token, TaskState.FAILED, self.now)
        outcome = Outcome.LOST if lost else Outcome.FAILED
        got = write(self.database, tasks.fail, id, token, ERROR, now=self.now, outcome=outcome)
        assert got is expected

    @rule(id=ids, token=tokens, own=st.booleans(), crashed=st.booleans())
    def requeue(self, id: str, token: str, own: bool, crashed: bool) -> None:
        token = self._token(id, token, own=own)
        expected = self.model.requeue(self._task(id), token, self.now, crashed=crashed)
        got = write(self.database, tasks.requeue, id, token, now=self.now, crashed=crashed)
        assert got == expected

    @rule(id=ids)
    def cancel(self, id: str) -> None:
        task = self.model.tasks.get(id)
        got = write(self.database, tasks.cancel, id, now=self.now)
        if task is None:
            assert got is None
        else:
            assert got is not None
            assert got.state is self.model.cancel(task, self.now)

    @rule(id=ids, token=tokens, own=st.booleans())
    def stopped(self, id: str, token: str, own: bool) -> None:
        token = self._token(id, token, own=own)
        expected = self.model.end(self._task(id), token, TaskState.CANCELLED, self.now)
        assert write(self.database, tasks.cancelled, id, token, now=self.now) is expected

    @rule(patience=st.integers(0, 20))
    def expire(self, patience: int) -> None:
        before = self.now - patience
        got = write(self.database, tasks.expire_waiting, before=before, error=ERROR, now=self.now)
        assert set(got) == self.model.expire(before, self.now)

    @rule()
    def recover(self) -> None:
        got = write(self.database, tasks.recover, now=self.now)
        assert set(got) == self.model.recover(self.now)

    @rule()
    def age(self) -> None:
        write(self.database, tasks.age, now=self.now, queue=LIMITS)
        self.model.age(self.now)

    @rule(max_age=st.integers(0, 20), max_bytes=st.sampled_from([0, 30, 10_000]))
    def purge(self, max_age: int, max_bytes: int) -> None:
        got = write(
            self.database, tasks.purge, now=self.now, max_age_s=float(max_age), max_bytes=max_bytes
        )
        expected = self.model.purge(self.now, float(max_age), max_bytes)
        assert (set(got), len(got)) == (expected, len(expected))

    @rule(seconds=st.integers(1, 10))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def same_tasks(self) -> None:
        stored = read(self.database, _tasks)
        assert stored == {id: _fields(task) for id, task in self.model.tasks.items()}

    @invariant()
    def same_order(self) -> None:
        for lane in LANES:
            waiting = [task.id for task in self.model.waiting(lane)]
            found = [c.id for c in read(self.database, tasks.candidates, lane, limit=100)]
            assert found == waiting
            if waiting:
                assert read(self.database, tasks.position, waiting[-1]) == len(waiting)

    @invariant()
    def same_counts(self) -> None:
        expected = Counter[tuple[str, str]]()
        for task in self.model.tasks.values():
            if task.state is TaskState.PENDING:
                expected[task.lane, ""] += 1
                expected[task.lane, task.owner] += 1
        assert +read(self.database, _counts) == expected
        states = Counter(task.state for task in self.model.tasks.values())
        assert read(self.database, tasks.counts) == {
            state: states[state] for state in (TaskState.PENDING, TaskState.PROCESSING)
        }

    @invariant()
    def same_pictures(self) -> None:
        assert read(self.database, _refs) == self.model.refs()

    @invariant()
    def every_finish_is_billed_once(self) -> None:
        assert read(self.database, _billed) == self.model.finished

    def _token(self, id: str, other: str, *, own: bool) -> str:
        """The task's own token if it has one and `own`, or one that may be another's or older."""
        return self._task(id).token or other if own else other

    def _task(self, id: str) -> ModelTask:
        """A task that may have been deleted: moves of a deleted one are all refused."""
        gone = ModelTask(id, "", "", 0, 0, 0, 0, 0, [], state=TaskState.FAILED)
        return self.model.tasks.get(id, gone)


def _empty(conn: Connection) -> None:
    for table in reversed(schema.metadata.sorted_tables):
        conn.execute(table.delete())


def _tasks(conn: Connection) -> dict[str, dict[str, Any]]:
    return {row.id: _fields(row) for row in conn.execute(select(schema.tasks))}


def _fields(task: Any) -> dict[str, Any]:
    names = ("owner", "lane", "priority", "turn", "rank", "attempt", "crashes", "cancel_requested")
    times = ("created_at", "waiting_since", "started_at", "finished_at")
    return {"state": str(task.state)} | {name: getattr(task, name) for name in (*names, *times)}


def _counts(conn: Connection) -> Counter[tuple[str, str]]:
    lanes = {(row.name, ""): row.waiting for row in conn.execute(select(schema.lanes))}
    shares = {(row.lane, row.owner): row.waiting for row in conn.execute(select(schema.shares))}
    return Counter(lanes | shares)


def _refs(conn: Connection) -> Counter[str]:
    return Counter({row.sha256: row.refs for row in conn.execute(select(schema.blobs))})


def _billed(conn: Connection) -> Counter[str]:
    return Counter({row.owner: row.tasks for row in conn.execute(select(schema.usage))})


def test_the_store_does_what_the_model_does(database: Database) -> None:
    class Machine(QueueMachine):
        def __init__(self) -> None:
            super().__init__(database)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        ),
    )
