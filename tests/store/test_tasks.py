"""Each move by itself: what it writes, what it refuses, what it leaves."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, select

from genserve.config import Queue
from genserve.domain.task import TRANSITIONS, Degraded, Outcome, TaskState
from genserve.errors import OwnerQueueFull, QueueFull
from genserve.store import leases, schema, tasks, usage
from genserve.store.database import Database
from tests.store import building
from tests.store.building import (
    ERROR,
    LANE,
    NOW,
    QUEUE,
    claim,
    claimed,
    digest,
    file,
    get,
    insert,
    new_task,
    picture,
    read,
    request,
    result,
    write,
)


def attempts(database: Database, task_id: str) -> list[Any]:
    def rows(conn: Connection) -> list[Any]:
        where = schema.attempts.c.task_id == task_id
        order = schema.attempts.c.number
        return list(conn.execute(select(schema.attempts).where(where).order_by(order)))

    return read(database, rows)


def test_an_inserted_task_is_stored_as_asked(database: Database) -> None:
    new = new_task(file("in"), priority=3)
    task_id = insert(database, new)
    task = get(database, task_id)
    assert (task.owner, task.key_id, task.dialect) == ("ann", "k_1", "native")
    assert (task.state, task.attempt) == (TaskState.PENDING, 0)
    assert (task.priority, task.rank) == (3, 3 * QUEUE.ageing_s)
    assert task.asked == new.asked
    assert task.asked.steps is None
    assert task.created_at == datetime.fromtimestamp(NOW, UTC)
    assert read(database, tasks.position, task_id) == 1
    assert read(database, tasks.known_blobs, [digest("in"), digest("x")]) == {digest("in")}


def test_an_unknown_task_is_none_everywhere(database: Database) -> None:
    assert read(database, tasks.get, "nobody") is None
    assert read(database, tasks.position, "nobody") is None
    assert write(database, claim, "nobody", "t") is None
    assert write(database, tasks.cancel, "nobody", now=NOW) is None
    assert write(database, tasks.requeue, "nobody", "t", now=NOW, crashed=True) is None
    assert not write(database, tasks.started, "nobody", "t", NOW)
    assert not write(database, tasks.finish, "nobody", "t", result(), now=NOW)


def test_a_finished_task_has_its_pictures_and_is_billed(database: Database) -> None:
    task_id, token = claimed(database)
    assert write(database, tasks.started, task_id, token, NOW + 1)
    assert write(database, tasks.started, task_id, token, NOW + 2)
    made = result(picture("one", seed=7), picture("two", seed=2**32 - 1))
    made = made.model_copy(update={"degraded": (Degraded(code="vae_tiled"),)})
    assert write(database, tasks.finish, task_id, token, made, now=NOW + 9)
    task = get(database, task_id)
    assert (task.state, task.result) == (TaskState.COMPLETED, made)
    assert task.started_at == datetime.fromtimestamp(NOW + 1, UTC)
    assert task.finished_at == datetime.fromtimestamp(NOW + 9, UTC)
    assert (task.worker, task.resolved and task.resolved.steps) == ("gpu-0", 4)
    (attempt,) = attempts(database, task_id)
    assert (attempt.outcome, attempt.finished_at) == (Outcome.DONE, NOW + 9)
    assert "vae_tiled" in attempt.degraded
    (day,) = read(database, usage.of_owner, "ann", since=NOW)
    # 2 pictures of 10 x 20 pixels in 4 steps
    assert (day.tasks, day.images, day.pixel_steps, day.day) == (1, 2, 1600.0, "1970-01-12")


def test_a_late_result_of_an_older_attempt_is_refused(database: Database) -> None:
    task_id, old = claimed(database)
    assert write(database, tasks.requeue, task_id, old, now=NOW, crashed=True) == 1
    assert not write(database, tasks.finish, task_id, old, result(picture("late")), now=NOW)
    assert write(database, claim, task_id, "new") is not None
    for move in (tasks.finish, tasks.fail):
        late = result(picture("late")) if move is tasks.finish else ERROR
        assert not write(database, move, task_id, old, late, now=NOW)
    assert not write(database, tasks.started, task_id, old, NOW)
    assert not write(database, tasks.cancelled, task_id, old, now=NOW)
    assert write(database, tasks.requeue, task_id, old, now=NOW, crashed=True) is None
    assert read(database, tasks.known_blobs, [digest("late")]) == set()
    assert write(database, tasks.finish, task_id, "new", result(picture("good")), now=NOW)
    assert [a.outcome for a in attempts(database, task_id)] == [Outcome.LOST, Outcome.DONE]


def test_an_end_that_got_no_answer_can_be_told_again(database: Database) -> None:
    task_id, token = claimed(database)
    for _ in range(2):
        assert write(database, tasks.finish, task_id, token, result(picture("a")), now=NOW)
    assert not write(database, tasks.fail, task_id, token, ERROR, now=NOW)
    assert not write(database, tasks.cancelled, task_id, token, now=NOW)
    (day,) = read(database, usage.of_owner, "ann", since=NOW)
    assert day.tasks == 1
    failed, token = claimed(database)
    for _ in range(2):
        assert write(database, tasks.fail, failed, token, ERROR, now=NOW)
    stopped, token = claimed(database)
    for _ in range(2):
        assert write(database, tasks.cancelled, stopped, token, now=NOW)


def test_a_task_is_claimed_once(database: Database) -> None:
    task_id = insert(database)
    assert write(database, claim, task_id, "first") is not None
    assert write(database, claim, task_id, "second") is None
    assert len(attempts(database, task_id)) == 1


def test_a_former_dispatcher_claims_nothing(database: Database) -> None:
    task_id = insert(database)
    office = {"name": leases.DISPATCHER, "ttl_s": 10.0}
    old = write(database, leases.lead, holder="a", now=NOW, **office)
    new = write(database, leases.lead, holder="b", now=NOW + 11, **office)
    assert (old, new) == (1, 2)
    assert write(database, claim, task_id, "t1", epoch=old) is None
    assert write(database, claim, task_id, "t2", epoch=new) is not None


def test_a_crash_counts_and_a_return_does_not(database: Database) -> None:
    task_id = insert(database)
    for token, crashed, crashes in (("a", True, 1), ("b", False, 1), ("c", True, 2)):
        assert write(database, claim, task_id, token) is not None
        got = write(database, tasks.requeue, task_id, token, now=NOW, crashed=crashed)
        assert got == crashes
    assert write(database, claim, task_id, "d") is not None
    assert write(database, tasks.fail, task_id, "d", ERROR, now=NOW, outcome=Outcome.LOST)
    task = get(database, task_id)
    assert (task.state, task.crashes, task.attempt, task.error) == (TaskState.FAILED, 3, 4, ERROR)
    outcomes = [attempt.outcome for attempt in attempts(database, task_id)]
    assert outcomes == [Outcome.LOST, Outcome.RETURNED, Outcome.LOST, Outcome.LOST]


def test_a_task_that_was_put_back_is_first_again(database: Database) -> None:
    first, token = claimed(database)
    others = [insert(database) for _ in range(3)]
    write(database, tasks.requeue, first, token, now=NOW, crashed=True)
    found = [c.id for c in read(database, tasks.candidates, LANE, limit=9)]
    assert found == [first, *others]


def test_cancelling_a_waiting_task_ends_it_at_once(database: Database) -> None:
    task_id = insert(database)
    task = write(database, tasks.cancel, task_id, now=NOW + 5)
    assert task is not None
    assert task.state is TaskState.CANCELLED
    assert task.finished_at == datetime.fromtimestamp(NOW + 5, UTC)
    assert write(database, claim, task_id, "t") is None
    again = write(database, tasks.cancel, task_id, now=NOW + 9)
    assert again == task


def test_cancelling_a_running_task_asks_its_worker(database: Database) -> None:
    task_id, token = claimed(database)
    task = write(database, tasks.cancel, task_id, now=NOW)
    assert task is not None
    assert task.state is TaskState.PROCESSING
    assert write(database, tasks.cancelled, task_id, token, now=NOW)
    assert get(database, task_id).state is TaskState.CANCELLED


def test_a_cancelled_task_whose_worker_died_is_not_run_again(database: Database) -> None:
    task_id, token = claimed(database)
    write(database, tasks.cancel, task_id, now=NOW)
    assert write(database, tasks.requeue, task_id, token, now=NOW, crashed=True) is None
    assert get(database, task_id).state is TaskState.CANCELLED
    assert read(database, tasks.candidates, LANE, limit=9) == []


def test_a_finished_picture_wins_over_a_late_cancel(database: Database) -> None:
    task_id, token = claimed(database)
    write(database, tasks.cancel, task_id, now=NOW)
    assert write(database, tasks.finish, task_id, token, result(picture("a")), now=NOW)
    assert get(database, task_id).state is TaskState.COMPLETED


def test_recovery_puts_back_what_was_running(database: Database) -> None:
    running, token = claimed(database)
    stopped, _ = claimed(database)
    write(database, tasks.cancel, stopped, now=NOW)
    done, other = claimed(database)
    write(database, tasks.finish, done, other, result(), now=NOW)
    waiting = insert(database)
    assert write(database, tasks.recover, now=NOW + 50) == [running]
    assert write(database, tasks.recover, now=NOW + 60) == []
    states = [get(database, task_id).state for task_id in (running, stopped, done, waiting)]
    pending, cancelled, completed = TaskState.PENDING, TaskState.CANCELLED, TaskState.COMPLETED
    assert states == [pending, cancelled, completed, pending]
    assert get(database, running).crashes == 0
    assert [a.outcome for a in attempts(database, running)] == [Outcome.LOST]
    assert not write(database, tasks.finish, running, token, result(), now=NOW)
    assert read(database, tasks.counts)[TaskState.PENDING] == 2


def test_waiting_too_long_fails_the_oldest_first(database: Database) -> None:
    ids = [insert(database, now=NOW + n) for n in range(4)]
    put_back, token = claimed(database)
    write(database, tasks.requeue, put_back, token, now=NOW + 100, crashed=False)
    overdue = {"before": NOW + 3, "error": ERROR, "now": NOW + 100}
    assert write(database, tasks.expire_waiting, limit=2, **overdue) == ids[:2]
    assert write(database, tasks.expire_waiting, **overdue) == [ids[2]]
    assert get(database, ids[0]).error == ERROR
    assert read(database, tasks.counts)[TaskState.PENDING] == 2


def test_passed_over_tasks_are_counted(database: Database) -> None:
    cold, warm = insert(database), insert(database)

    def claim_warm(conn: Connection) -> object:
        return tasks.claim(
            conn,
            warm,
            token="t",
            backend="local",
            worker="w",
            epoch=0,
            resolved=request(),
            now=NOW,
            passed=[cold],
        )

    assert write(database, claim_warm) is not None
    (candidate,) = read(database, tasks.candidates, LANE, limit=9)
    assert (candidate.id, candidate.passed) == (cold, 1)


def test_limits_of_the_queue_and_of_an_owner(database: Database) -> None:
    limits = Queue(max_tasks=3, max_per_owner=2)
    for owner in ("ann", "ann", "bob"):
        insert(database, new_task(owner=owner), queue=limits)
    with pytest.raises(QueueFull) as full:
        insert(database, new_task(owner="eve", cost_s=7.2), queue=limits)
    assert full.value.params == {"limit": 3, "retry_after_s": 8.0}
    (first,) = read(database, tasks.candidates, LANE, limit=1)
    write(database, claim, first.id, "t")
    with pytest.raises(OwnerQueueFull):
        insert(
            database,
            new_task(owner="ann"),
            queue=Queue(max_tasks=9, max_per_owner=1),
        )
    insert(database, new_task(owner="eve"), queue=limits)
    assert read(database, tasks.counts) == {TaskState.PENDING: 3, TaskState.PROCESSING: 1}


def test_a_refused_task_leaves_nothing(database: Database) -> None:
    insert(database, queue=Queue(max_tasks=1))
    refused = new_task(file("refused"), owner="bob")
    with pytest.raises(QueueFull):
        insert(database, refused, queue=Queue(max_tasks=1))
    assert read(database, tasks.get, refused.id) is None
    assert read(database, tasks.known_blobs, [digest("refused")]) == set()


def test_lanes_do_not_block_each_other(database: Database) -> None:
    limits = Queue(max_tasks=1)
    remote = insert(database, new_task(lane="provider:x"), queue=limits)
    local = insert(database, new_task(), queue=limits)
    for lane, task_id in (("provider:x", remote), (LANE, local)):
        assert [c.id for c in read(database, tasks.candidates, lane, limit=9)] == [task_id]
        assert read(database, tasks.position, task_id) == 1


def test_tasks_are_listed_in_pages_newest_first(database: Database) -> None:
    ids = [insert(database, new_task(owner=owner)) for owner in ("ann", "bob") * 5]
    write(database, tasks.cancel, ids[0], now=NOW)

    def page(**wanted: Any) -> list[str]:
        filters = {"owner": None, "state": None, "limit": 50, "before": None} | wanted
        return [task.id for task in read(database, tasks.list_tasks, **filters)]

    assert page() == ids[::-1]
    assert page(owner="bob") == ids[1::2][::-1]
    assert page(owner="ann", limit=2) == [ids[8], ids[6]]
    assert page(owner="ann", limit=2, before=ids[6]) == [ids[4], ids[2]]
    assert page(state=TaskState.CANCELLED) == [ids[0]]
    assert page(state=TaskState.PENDING, owner="ann") == [ids[8], ids[6], ids[4], ids[2]]
    assert page(state=TaskState.FAILED) == []
    assert page(before=ids[0]) == []


def test_every_transition_of_the_table_has_a_move_and_no_other(database: Database) -> None:
    """Tries every move on a task in every state; what changes is exactly the table."""
    seen: dict[TaskState, set[TaskState]] = {state: set() for state in TaskState}
    for before in TaskState:
        for move in MOVES:
            task_id, token = in_state(database, before)
            write(database, move, task_id, token)
            after = get(database, task_id).state
            if after is not before:
                seen[before].add(after)
            write(database, tasks.recover, now=NOW)
            write(database, tasks.expire_waiting, before=NOW * 2, error=ERROR, now=NOW)
    assert seen == {state: set(TRANSITIONS[state]) for state in TaskState}


MOVES = [
    lambda conn, id, token: claim(conn, id, "other"),
    lambda conn, id, token: tasks.finish(conn, id, token, result(), now=NOW),
    lambda conn, id, token: tasks.fail(conn, id, token, ERROR, now=NOW),
    lambda conn, id, token: tasks.cancelled(conn, id, token, now=NOW),
    lambda conn, id, token: tasks.cancel(conn, id, now=NOW),
    lambda conn, id, token: tasks.requeue(conn, id, token, now=NOW, crashed=True),
    lambda conn, id, token: tasks.recover(conn, now=NOW),
    lambda conn, id, token: tasks.expire_waiting(conn, before=NOW * 2, error=ERROR, now=NOW),
]


def in_state(database: Database, state: TaskState) -> tuple[str, str]:
    """A task in that state, with the token that its last attempt had."""
    if state is TaskState.PENDING:
        return insert(database), "none"
    task_id, token = claimed(database)
    match state:
        case TaskState.COMPLETED:
            write(database, tasks.finish, task_id, token, building.result(), now=NOW)
        case TaskState.FAILED:
            write(database, tasks.fail, task_id, token, ERROR, now=NOW)
        case TaskState.CANCELLED:
            write(database, tasks.cancelled, task_id, token, now=NOW)
        case _:
            pass
    assert get(database, task_id).state is state
    return task_id, token
