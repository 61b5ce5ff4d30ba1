"""Small requests, tasks and results, and short ways to run store functions in tests."""

from collections.abc import Callable
from hashlib import sha256
from itertools import count
from typing import Any, TypeVar
from uuid import uuid4

from sqlalchemy import Connection

from genserve.config import Queue
from genserve.domain.request import FileRef, GenerationRequest, ImageRole, InputImage
from genserve.domain.task import ErrorInfo, Result, ResultImage, Task
from genserve.store import tasks
from genserve.store.database import Database

T = TypeVar("T")
NOW = 1_000_000.0
QUEUE = Queue()
LANE = "local"
ERROR = ErrorInfo(code="worker_failed", params={"reason": "it broke"})
_numbers = count(1)


def write(database: Database, f: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run a store function in a transaction of its own; not synced, for speed."""
    return database.write(lambda conn: f(conn, *args, **kwargs), durable=False).result(30)


def read(database: Database, f: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run a store function on a reader."""
    return database.read(lambda conn: f(conn, *args, **kwargs)).result(30)


def digest(name: str) -> str:
    """A SHA-256 to name a file with."""
    return sha256(name.encode()).hexdigest()


def file(name: str, size_bytes: int = 100) -> FileRef:
    """A stored input picture."""
    return FileRef(
        sha256=digest(name), media_type="image/png", width=8, height=8, size_bytes=size_bytes
    )


def picture(name: str, size_bytes: int = 100, seed: int = 1) -> ResultImage:
    """A finished picture."""
    return ResultImage(
        sha256=digest(name),
        media_type="image/png",
        size_bytes=size_bytes,
        width=8,
        height=8,
        seed=seed,
    )


def result(*pictures: ResultImage) -> Result:
    """What a finished attempt produced."""
    return Result(images=pictures, served_by="tiny", native_width=10, native_height=20)


def request(*files: FileRef) -> GenerationRequest:
    """A request with these input pictures."""
    return GenerationRequest(
        model="flux1-dev",
        prompt="a red cat",
        seed=1,
        images=tuple(InputImage(file=f, role=ImageRole.REFERENCE) for f in files),
    )


def new_task(
    *files: FileRef,
    id: str | None = None,
    owner: str = "ann",
    priority: int = 0,
    lane: str = LANE,
    cost_s: float = 1.0,
) -> tasks.NewTask:
    """A task to insert; ids grow."""
    return tasks.NewTask(
        id=id or f"task-{next(_numbers):08d}",
        owner=owner,
        key_id="k_1",
        dialect="native",
        asked=request(*files),
        priority=priority,
        lane=lane,
        warm_key="flux1-dev|",
        cost_s=cost_s,
    )


def insert(database: Database, task: tasks.NewTask | None = None, **options: Any) -> str:
    """Insert a task; its id."""
    chosen = task or new_task()
    values = {"now": NOW, "queue": QUEUE} | options
    return write(database, tasks.insert, chosen, **values).task_id


def claim(
    conn: Connection, task_id: str, token: str, *, now: float = NOW, epoch: int = 0
) -> Task | None:
    """Claim a task for a worker."""
    return tasks.claim(
        conn,
        task_id,
        token=token,
        backend="local",
        worker="gpu-0",
        epoch=epoch,
        resolved=request().model_copy(update={"steps": 4}),
        now=now,
    )


def claimed(database: Database, task: tasks.NewTask | None = None) -> tuple[str, str]:
    """A task that is worked on: its id and its token."""
    task_id, token = insert(database, task), str(uuid4())
    assert write(database, claim, task_id, token) is not None
    return task_id, token


def get(database: Database, task_id: str) -> Task:
    """The task as stored."""
    task = read(database, tasks.get, task_id)
    assert task is not None
    return task
