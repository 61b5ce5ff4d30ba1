"""The hot queries use their indexes, whatever the number of tasks."""

from typing import Any

import pytest
from sqlalchemy import Connection, Executable, text

from genserve.config import Queue
from genserve.domain.task import TaskState
from genserve.store import task_queries, tasks
from genserve.store import turns as turns_module
from genserve.store.database import Database
from tests.store import building
from tests.store.building import ERROR, LANE, NOW, read, write

MANY = Queue(max_tasks=10**6, max_per_owner=10**6)


def plan(conn: Connection, statement: Executable, values: dict[str, Any]) -> str:
    """The database's own description of how it would run a statement."""
    compiled: Any = statement.compile(  # type: ignore[attr-defined]
        dialect=conn.dialect, compile_kwargs={"render_postcompile": True}
    )
    prefix = "EXPLAIN QUERY PLAN " if conn.dialect.name == "sqlite" else "EXPLAIN "
    parameters = compiled.construct_params(values)
    if compiled.positiontup is not None:
        parameters = tuple(parameters[name] for name in compiled.positiontup)
    rows = conn.exec_driver_sql(prefix + str(compiled), parameters)
    return "\n".join(str(row[-1]) for row in rows)


@pytest.fixture
def filled(database: Database) -> Database:
    """Some waiting tasks of several owners and priorities, a few ended."""

    def fill(conn: Connection) -> None:
        for number in range(300):
            task = building.new_task(owner=f"o{number % 9}", priority=number % 3)
            tasks.insert(conn, task, now=NOW, queue=MANY)
            if number % 3:
                continue
            building.claim(conn, task.id, f"t{number}")
            tasks.fail(conn, task.id, f"t{number}", ERROR, now=NOW)

    write(database, fill)
    return database


QUERIES: list[tuple[Executable, dict[str, Any], str]] = [
    (task_queries._CANDIDATES, {"lane": LANE, "limit": 32}, "tasks_waiting"),
    (task_queries._AHEAD, {"lane": LANE, "rank": 5.0, "id": "x"}, "tasks_waiting"),
    (task_queries._PROCESSING, {}, "tasks_open"),
    (tasks._RECOVER, {"b_now": NOW}, "tasks_open"),
    (tasks._OVERDUE, {"b_before": NOW, "b_limit": 10}, "tasks_waiting_since"),
    (turns_module._AGE, {"b_now": NOW, "b_ageing": 600.0}, "tasks_ageing"),
]


@pytest.mark.parametrize(
    ("statement", "values", "index"), QUERIES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_the_index_is_used(
    filled: Database, statement: Executable, values: dict[str, Any], index: str
) -> None:
    def explain(conn: Connection) -> str:
        if conn.dialect.name == "postgresql":
            # A table this small is read whole, whatever its indexes.
            conn.execute(text("SET LOCAL enable_seqscan = off"))
        return plan(conn, statement, values)

    described = filled.write(explain).result(30)
    assert index in described
    assert "Seq Scan" not in described
    assert "SCAN tasks\n" not in described + "\n"


def test_candidates_are_not_sorted_but_read_in_order(filled: Database) -> None:
    def explain(conn: Connection) -> str:
        if conn.dialect.name == "postgresql":
            conn.execute(text("SET LOCAL enable_seqscan = off"))
            conn.execute(text("SET LOCAL enable_sort = off"))
        return plan(conn, task_queries._CANDIDATES, {"lane": LANE, "limit": 32})

    described = filled.write(explain).result(30).lower()
    assert "sort" not in described
    assert "temp b-tree" not in described


def test_the_queue_is_as_it_was_filled(filled: Database) -> None:
    assert read(filled, tasks.counts) == {TaskState.PENDING: 200, TaskState.PROCESSING: 0}
