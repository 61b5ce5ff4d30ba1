"""The ledger: what the server acknowledged against what its database and folders hold at the end.

The form is Jepsen's total-queue check: every acknowledged task must be there, have ended in
exactly one way, and, if it was completed, have exactly one finished attempt whose pictures lie on
disk with the content that their name promises.
"""

import hashlib
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

ENDED = {"completed", "failed", "cancelled"}


@dataclass
class Verdict:
    """The ledger's columns; a clean run has nothing in any list."""

    acknowledged: int
    states: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    finished_twice: list[str] = field(default_factory=list)
    bad_pictures: list[str] = field(default_factory=list)
    orphans: list[int] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every promise held."""
        return not (
            self.lost
            or self.unfinished
            or self.unexpected
            or self.finished_twice
            or self.bad_pictures
            or self.orphans
        )


def audit(data_dir: Path, acknowledged: set[str]) -> Verdict:
    """Compare the acknowledged ids with the stopped server's data folder."""
    verdict = Verdict(acknowledged=len(acknowledged))
    with sqlite3.connect(data_dir / "genserve.db") as db:
        rows = dict(db.execute("SELECT id, state FROM tasks").fetchall())
        done = dict(
            db.execute(
                "SELECT task_id, count(*) FROM attempts WHERE outcome = 'done' GROUP BY task_id"
            ).fetchall()
        )
        pictures = db.execute("SELECT task_id, sha256 FROM images").fetchall()
    db.close()
    for state in rows.values():
        verdict.states[state] = verdict.states.get(state, 0) + 1
    verdict.lost = sorted(acknowledged - rows.keys())
    verdict.unexpected = sorted(rows.keys() - acknowledged)
    verdict.unfinished = sorted(i for i in acknowledged & rows.keys() if rows[i] not in ENDED)
    for task_id, state in rows.items():
        if done.get(task_id, 0) != (1 if state == "completed" else 0):
            verdict.finished_twice.append(task_id)
    drawn = {task_id for task_id, _ in pictures}
    verdict.bad_pictures = sorted(
        {i for i, state in rows.items() if state == "completed"} - drawn
    ) + [name for _, name in pictures if not _intact(data_dir / "blobs", name)]
    return verdict


def _intact(blobs: Path, sha256: str) -> bool:
    path = blobs / sha256[:2] / sha256
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
