"""Whether giving a task out costs more when many wait: the claim's transaction at two depths."""

import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Connection

from genserve.cli.bench.report import Figure, Report, percentile
from genserve.cli.bench.settings import MODEL
from genserve.config import Queue
from genserve.core import policy
from genserve.core.claims import LOCAL
from genserve.domain.pool import WorkerInfo, WorkerState
from genserve.domain.request import GenerationRequest
from genserve.domain.task import new_task_id
from genserve.store import tasks
from genserve.store.database import Database

SHALLOW = 100
ROUNDS = 300
OWNERS = 50
GOAL_RATIO = 1.5
WORKER = WorkerInfo(id="w", device="cpu", state=WorkerState.IDLE, loaded=(MODEL,))
REQUEST = GenerationRequest(
    model=MODEL, prompt="a red cat", width=512, height=512, steps=20, seed=1
)


def measure(folder: Path, size: int) -> Report:
    """Compare the claim among 100 waiting tasks with the claim among `size`."""
    databases = [
        _filled(folder / "shallow.db", min(SHALLOW, size)),
        _filled(folder / "deep.db", size),
    ]
    try:
        # In turns, so that whatever else the machine does falls on both.
        took_ms = [[_one_claim(db) for db in databases] for _ in range(ROUNDS)]
    finally:
        for db in databases:
            db.close()
    shallow, deep = (percentile(column, 0.5) for column in zip(*took_ms, strict=True))
    return Report(
        benchmark="dispatch",
        done=f"{ROUNDS} claims at each depth",
        figures=[
            Figure(f"claim among {SHALLOW:,}, p50", shallow, "ms"),
            Figure(f"claim among {size:,}, p50", deep, "ms"),
            Figure("deep over shallow", deep / shallow, "times", at_most=GOAL_RATIO),
        ],
    )


def _filled(file: Path, count: int) -> Database:
    """A database with so many waiting tasks of many owners."""
    db = Database.open(f"sqlite:///{file}")
    limits = Queue(max_tasks=count + 1, max_per_owner=count + 1)
    pending = [db.write(partial(_insert, n=n, queue=limits)) for n in range(count)]
    for future in pending:
        future.result()
    return db


def _insert(conn: Connection, *, n: int, queue: Queue) -> None:
    now = time.time()
    task = tasks.NewTask(
        id=new_task_id(datetime.fromtimestamp(now, UTC)),
        owner=f"owner {n % OWNERS}",
        key_id="bench",
        dialect="native",
        asked=REQUEST,
        priority=0,
        lane=LOCAL,
        warm_key=policy.warm_key(MODEL, ""),
        cost_s=1.0,
    )
    tasks.insert(conn, task, now=now, queue=queue)


def _one_claim(db: Database) -> float:
    """Milliseconds of one claim; the task is put back at its place, so the depth stays."""
    token = str(uuid4())
    began_at = time.perf_counter()
    task_id = db.write(partial(_claim, token=token), durable=False).result()
    took_ms = (time.perf_counter() - began_at) * 1e3
    put_back = partial(tasks.requeue, task_id=task_id, token=token, now=time.time(), crashed=False)
    db.write(put_back, durable=False).result()
    return took_ms


def _claim(conn: Connection, *, token: str) -> str:
    """What the dispatcher does in one transaction."""
    window = tasks.candidates(conn, LOCAL, limit=Queue().window)
    choice = policy.choose(window, [WORKER], max_passes=Queue().max_passes)
    assert choice is not None
    tasks.claim(
        conn,
        choice.task_id,
        token=token,
        backend=LOCAL,
        worker=choice.worker_id,
        epoch=1,
        resolved=REQUEST,
        now=time.time(),
        passed=choice.passed,
    )
    return choice.task_id
