"""How the log looks: structlog over the standard library's logging, on stderr.

People on a terminal get coloured lines, everything else one JSON object per record; from a terminal
the server also keeps the JSON in its data folder, since the terminal's text will be gone. Our own
records, those of uvicorn and other libraries, and what worker processes print all take this way.
What stands in `structlog.contextvars` (request_id, task_id) is on every line.

No value can forge a line: control characters are written as escapes, and a traceback's lines are
indented. Prompts are private: fields that hold one are left out unless `log.prompts` is on, so a
prompt must be logged as a field named in `PROMPT_FIELDS`, never inside the message.
"""

import logging
import math
import re
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

PROMPT_FIELDS = frozenset({"prompt", "negative_prompt", "prompts"})
HIDDEN = "(hidden)"
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0, DEL, C1 (where terminals find escape sequences), line separators, text direction marks, and
lone surrogates, which no stream can write."""
MAX_DEPTH = 6
QUIET = ("uvicorn", "httpx2", "httpcore2", "sqlalchemy.engine", "alembic", "PIL", "asyncio")
FILE_NAME, FILE_BYTES, FILES = "genserve.log", 10 * 1024 * 1024, 5
FIRST = ("timestamp", "level", "logger", "event")

Format = Literal["auto", "console", "json"]


def configure(
    level: str = "info",
    format: Format = "auto",
    prompts: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Send every record to `stream` (default: stderr). May be called again; the last one counts."""
    stream = stream or sys.stderr
    as_json = format == "json" or (format == "auto" and not stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(_json() if as_json else _console(stream.isatty()), prompts))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    _quieten_libraries(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_common(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def keep_in(folder: Path, prompts: bool = False) -> None:
    """Write every record into `folder` too, as JSON lines in files that are replaced in turn."""
    file = RotatingFileHandler(
        folder / FILE_NAME, maxBytes=FILE_BYTES, backupCount=FILES, encoding="utf-8", delay=True
    )
    file.setFormatter(_formatter(_json(), prompts))
    logging.getLogger().addHandler(file)


def _formatter(render: Processor, prompts: bool) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_common(), structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *([] if prompts else [_hide_prompts]),
            structlog.processors.format_exc_info,
            _escape,
            render,
        ],
    )


def _common() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _quieten_libraries(level: str) -> None:
    # These tell of each request, statement or start, which we log ourselves or nobody needs.
    for name in QUIET:
        logging.getLogger(name).setLevel("INFO" if level == "debug" else "WARNING")
    # uvicorn's own handlers would write beside ours.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True


def _json() -> Processor:
    return structlog.processors.JSONRenderer(ensure_ascii=False, default=_text)


def _console(colors: bool) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=colors, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
    )


def _hide_prompts(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    return {name: _without_prompts(name, value, MAX_DEPTH) for name, value in event.items()}


def _without_prompts(name: object, value: Any, depth: int) -> Any:
    if name in PROMPT_FIELDS:
        return HIDDEN
    if depth == 0:
        return "…"
    if hasattr(value, "model_dump"):  # a Pydantic value, as a request: its text form shows all
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _without_prompts(key, item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_prompts(None, item, depth - 1) for item in value]
    return value


def _escape(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    exception = event.pop("exception", None)
    event.pop("color_message", None)  # uvicorn's message once more, with colours
    ordered = {**{name: event[name] for name in FIRST if name in event}, **event}
    escaped: EventDict = {_escaped(n): _clean(value, MAX_DEPTH) for n, value in ordered.items()}
    if isinstance(exception, str):
        lines = (_escaped(line) for line in exception.split("\n"))
        escaped["exception"] = "\n".join(f"    {line}" for line in lines)
    return escaped


def _clean(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):  # JSON knows no NaN
        return value
    if isinstance(value, dict) and depth:
        return {_escaped(str(key)): _clean(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and depth:
        return [_clean(item, depth - 1) for item in value]
    return _escaped(_text(value))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _escaped(text: str) -> str:
    return CONTROL.sub(_as_escape, text)


def _as_escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
