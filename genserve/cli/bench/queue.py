"""How fast the queue's core accepts tasks durably: each was told after the commit that holds it."""

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from genserve.cli.bench.report import Figure, Report, percentile
from genserve.config import Queue
from genserve.domain.request import GenerationRequest
from genserve.domain.task import new_task_id
from genserve.store import tasks
from genserve.store.database import Database

OUTSTANDING = 128
"""Tasks handed over and not yet acknowledged, at any time: as many callers at once."""
OWNERS = 100
GOAL_PER_S = 5_000
LIMITLESS = Queue(max_tasks=10**9, max_per_owner=10**9)
REQUEST = GenerationRequest(
    model="flux1-dev",
    prompt="a red cat on a blue background, sitting in the garden, high quality",
    width=1024,
    height=1024,
    seed=42,
)


@dataclass(frozen=True, slots=True)
class EnqueueFigures:
    """Durable inserts: how many a second, and how long one waits for its acknowledgement."""

    count: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """Processor time of this process per task, in microseconds."""


def measure(folder: Path, size: int) -> Report:
    """Accept `size` tasks as fast as they go in."""
    figures = run_enqueue(folder, size)
    return Report(
        benchmark="queue",
        done=f"{figures.count:,} tasks, {OUTSTANDING} at a time",
        figures=[
            Figure("durable enqueues", figures.per_second, "per s", at_least=GOAL_PER_S),
            Figure("enqueue to acknowledgement, p50", figures.p50_ms, "ms"),
            Figure("enqueue to acknowledgement, p99", figures.p99_ms, "ms"),
            Figure("processor time", figures.cpu_us, "us per task"),
        ],
    )


def run_enqueue(
    folder: Path, count: int, *, outstanding: int = OUTSTANDING, url: str | None = None
) -> EnqueueFigures:
    """Insert `count` tasks of many owners, with up to `outstanding` unanswered at any time.

    Into a new SQLite file in `folder`, or into the database at `url`.
    """
    database = Database.open(url or f"sqlite:///{folder / 'queue.db'}")
    slots = threading.Semaphore(outstanding)
    latencies_ms: list[float] = []

    def answered(asked: float, future: "Future[tasks.Inserted]") -> None:
        future.result()
        latencies_ms.append(1e3 * (time.perf_counter() - asked))
        slots.release()

    began, cpu_began = time.perf_counter(), time.process_time()
    for number in range(count):
        slots.acquire()
        asked, now = time.perf_counter(), time.time()
        move = partial(tasks.insert, task=_task(number, now), now=now, queue=LIMITLESS)
        database.write(move).add_done_callback(partial(answered, asked))
    for _ in range(outstanding):
        slots.acquire()
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    database.close()
    return EnqueueFigures(
        count=count,
        per_second=count / took_s,
        p50_ms=percentile(latencies_ms, 0.5),
        p99_ms=percentile(latencies_ms, 0.99),
        cpu_us=1e6 * cpu_s / count,
    )


def _task(number: int, now: float) -> tasks.NewTask:
    return tasks.NewTask(
        id=new_task_id(datetime.fromtimestamp(now, UTC)),
        owner=f"owner {number % OWNERS}",
        key_id="bench",
        dialect="native",
        asked=REQUEST,
        priority=0,
        lane="local",
        warm_key="flux1-dev|",
        cost_s=1.0 + number % 7,
    )
