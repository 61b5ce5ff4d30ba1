"""What worker processes print goes into the server's log, with the worker's and the task's id."""

import logging

log = logging.getLogger("genserve.worker")
_LEVELS = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "CRITICAL": logging.CRITICAL,
}
_NEWLINE = "\x1e"
"""Stands for a newline inside a record (ASCII's record separator): a traceback stays whole."""


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", _NEWLINE)


def log_to_parent() -> None:
    """In a worker process: log to stderr, so that level and tracebacks survive the way."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def forward(line: str, worker: str, task_id: str | None) -> None:
    """In the server: log one line of a worker's output; libraries' own prints as INFO."""
    if not line.strip():
        return
    word, _, rest = line.partition(" ")
    level = _LEVELS.get(word)
    text = line if level is None else rest
    log.log(
        level or logging.INFO,
        "%s",
        text.replace(_NEWLINE, "\n"),
        extra={"worker": worker, "task_id": task_id},
    )
