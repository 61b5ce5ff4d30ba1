"""`kill -9` at any moment: what was acknowledged is there, and the database is whole."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from genserve.store import tasks
from genserve.store.database import Database

ROOT = Path(__file__).parents[2]
KILLS = 5

INSERTING = """
import sys, threading, time
from functools import partial
from genserve.config import Queue
from genserve.store import tasks
from genserve.store.database import Database
from tests.store.building import new_task

database = Database.open(sys.argv[1])
prefix, slots, telling = sys.argv[2], threading.Semaphore(32), threading.Lock()
queue = Queue(max_tasks=10**9, max_per_owner=10**9)

def tell(future):
    slots.release()
    with telling:
        print(future.result().task_id, flush=True)

print("ready", flush=True)
for number in range(10**9):
    slots.acquire()
    task = new_task(id=f"{prefix}-{number:08d}", owner=f"owner-{number % 7}")
    database.write(partial(tasks.insert, task=task, now=time.time(), queue=queue)) \\
        .add_done_callback(tell)
"""

MIGRATING = """
import sys
from genserve.store.database import Database
print("ready", flush=True)
Database.open(sys.argv[1])
"""


def start(script: str, *arguments: str) -> "subprocess.Popen[str]":
    """A process that is ready to do its work."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: "subprocess.Popen[str]", after_s: float) -> list[str]:
    """SIGKILL it after a while; the whole lines that it had printed."""
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    told, _ = process.communicate(timeout=30)
    return [line for line in told.splitlines(keepends=True) if line.endswith("\n")]


def whole(path: Path) -> bool:
    """SQLite's own check of everything."""
    connection = sqlite3.connect(path)
    (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
    orphans = connection.execute("PRAGMA foreign_key_check").fetchall()
    connection.close()
    return verdict == "ok" and not orphans


def test_acknowledged_tasks_survive_kill_9(tmp_path: Path, sqlite_url: str) -> None:
    moments = random.Random(1)
    acknowledged: set[str] = set()
    for number in range(KILLS):
        process = start(INSERTING, sqlite_url, f"run-{number}")
        acknowledged |= {line.strip() for line in kill(process, moments.uniform(0.05, 0.6))}
        assert whole(tmp_path / "genserve.db")
    database = Database.open(sqlite_url)
    stored = {
        task.id
        for task in database.read(
            lambda conn: tasks.list_tasks(conn, owner=None, state=None, limit=10**6, before=None)
        ).result(60)
    }
    waiting = database.read(tasks.counts).result(60)
    database.close()
    assert acknowledged
    assert acknowledged <= stored
    assert sum(waiting.values()) == len(stored)


def test_a_killed_migration_leaves_no_half_made_tables(tmp_path: Path) -> None:
    moments = random.Random(2)
    for number in range(KILLS):
        path = tmp_path / f"{number}.db"
        kill(start(MIGRATING, f"sqlite:///{path}"), moments.uniform(0, 0.03))
        connection = sqlite3.connect(path)
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        connection.close()
        assert not tables or {"alembic_version", "tasks", "leases"} <= tables
        Database.open(f"sqlite:///{path}").close()
        assert whole(path)
