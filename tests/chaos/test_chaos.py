"""kill -9 of the server and of its workers, under load: nothing lost, nothing twice."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.chaos.ledger import audit
from tests.chaos.run import chaos


@pytest.mark.timeout(300)
async def test_every_accepted_task_ends_exactly_once(tmp_path: Path):
    verdict = await chaos(tmp_path, server_kills=10, worker_kills=20)
    assert verdict.clean, verdict
    assert verdict.acknowledged > 50
    assert verdict.states["completed"] > 50
    assert_the_ledger_would_notice(tmp_path)


def assert_the_ledger_would_notice(folder: Path) -> None:
    """Break copies of the result by hand: each break must show."""
    with sqlite3.connect(folder / "data" / "genserve.db") as db:
        ids = {row[0] for row in db.execute("SELECT id FROM tasks")}
        completed = db.execute("SELECT id FROM tasks WHERE state = 'completed'").fetchone()[0]
        picture = db.execute("SELECT sha256 FROM images").fetchone()[0]
    db.close()
    assert audit(folder / "data", ids | {"never-stored"}).lost == ["never-stored"]
    assert audit(folder / "data", ids - {completed}).unexpected == [completed]
    broken = folder / "broken"
    shutil.copytree(folder / "data", broken)
    with sqlite3.connect(broken / "genserve.db") as db:
        db.execute("UPDATE tasks SET state = 'processing' WHERE id = ?", (completed,))
    db.close()
    (broken / "blobs" / picture[:2] / picture).write_bytes(b"torn")
    verdict = audit(broken, ids)
    assert verdict.unfinished == [completed]
    assert verdict.finished_twice == [completed]
    assert picture in verdict.bad_pictures
