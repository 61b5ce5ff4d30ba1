"""The log's two forms, under values that try to forge lines or to show what is private."""

import io
import json
import logging
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from genserve import logs


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _restored():
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().removesuffix("\n").split("\n")


def only_record(stream: io.StringIO) -> Any:
    written = lines(stream)
    assert len(written) == 1
    return json.loads(written[0])


HOSTILE = st.text(st.characters(codec=None)) | st.sampled_from(
    ["a\nb", "\r\n", "\x1b[2J", "\x9b31m", "\u2028", "\u202e", "\ud800", "\x00", "\x85"]
)


@given(message=HOSTILE, value=HOSTILE, name=HOSTILE)
def test_a_json_record_is_one_line_of_valid_json_whatever_it_holds(message, value, name):
    stream = io.StringIO()
    logs.configure(format="json", stream=stream)
    structlog.get_logger("t").info(message, field={name: [value]}, number=float("nan"))
    record = only_record(stream)
    assert len(stream.getvalue().splitlines()) == 1
    assert not logs.CONTROL.search(json.dumps(record, ensure_ascii=False))
    stream.getvalue().encode()


@given(value=HOSTILE)
def test_a_console_record_is_one_line_without_control_characters(value):
    stream = io.StringIO()
    logs.configure(format="console", stream=stream)
    structlog.get_logger("t").info(value, field=value)
    assert len(stream.getvalue().splitlines()) == 1
    assert not logs.CONTROL.search(stream.getvalue().removesuffix("\n"))


def test_a_traceback_cannot_pass_for_records():
    stream = io.StringIO()
    logs.configure(format="console", stream=stream)
    try:
        raise ValueError("\n2026-01-01T00:00:00Z [info] forged")
    except ValueError:
        structlog.get_logger("t").exception("failed")
    assert [line for line in lines(stream) if "forged" in line]
    assert all(line.startswith("    ") for line in lines(stream)[1:])


def test_ids_are_on_every_line_also_on_those_of_libraries():
    stream = io.StringIO()
    logs.configure(format="json", stream=stream)
    with structlog.contextvars.bound_contextvars(request_id="r1", task_id="t1"):
        structlog.get_logger("genserve.x").info("ours")
        logging.getLogger("uvicorn.error").warning("theirs %d", 7, extra={"action": "look"})
    ours, theirs = (json.loads(line) for line in lines(stream))
    assert (ours["request_id"], ours["task_id"]) == ("r1", "t1")
    assert (theirs["request_id"], theirs["task_id"]) == ("r1", "t1")
    assert (theirs["event"], theirs["action"], theirs["level"]) == ("theirs 7", "look", "warning")
    assert ours["timestamp"].endswith("Z")


class Request(BaseModel):
    prompt: str
    steps: int


@pytest.mark.parametrize("shown", [False, True])
def test_prompts_are_hidden_unless_asked_for(shown):
    stream = io.StringIO()
    logs.configure(format="json", prompts=shown, stream=stream)
    structlog.get_logger("t").info(
        "drawing",
        prompt="private words",
        request=Request(prompt="private words", steps=3),
        nested={"task": [{"negative_prompt": "private words"}]},
    )
    assert ("private words" in stream.getvalue()) is shown
    if not shown:
        assert only_record(stream)["request"] == {"prompt": logs.HIDDEN, "steps": 3}


def test_prompts_in_a_librarys_extra_fields_are_hidden():
    stream = io.StringIO()
    logs.configure(format="json", stream=stream)
    logging.getLogger("x").warning("drawing", extra={"prompt": "private words"})
    assert "private words" not in stream.getvalue()


def test_people_on_a_terminal_get_lines_and_programs_get_json():
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        logs.configure(stream=stream)
        logging.getLogger("x").warning("hello")
    assert "hello" in terminal.getvalue()
    with pytest.raises(json.JSONDecodeError):
        json.loads(terminal.getvalue())
    assert json.loads(file.getvalue())["event"] == "hello"


def test_what_a_terminal_shows_is_kept_as_json_without_prompts(tmp_path):
    terminal = Terminal()
    logs.configure(stream=terminal)
    logs.keep_in(tmp_path)
    structlog.get_logger("t").info("drawing", prompt="private words", task_id="t1")
    logging.getLogger("uvicorn.error").warning("theirs")
    for handler in logging.getLogger().handlers:
        handler.close()
    kept = [json.loads(line) for line in (tmp_path / logs.FILE_NAME).read_text().splitlines()]
    assert [record["event"] for record in kept] == ["drawing", "theirs"]
    assert kept[0]["task_id"] == "t1"
    assert "private words" not in json.dumps(kept)
    assert "drawing" in terminal.getvalue()


def test_the_level_counts_for_our_records_and_for_libraries():
    stream = io.StringIO()
    logs.configure(level="warning", format="json", stream=stream)
    structlog.get_logger("genserve.x").info("quiet")
    logging.getLogger("other").info("quiet")
    structlog.get_logger("genserve.x").warning("loud")
    assert [json.loads(line)["event"] for line in lines(stream)] == ["loud"]
