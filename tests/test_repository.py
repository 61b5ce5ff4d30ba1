"""The repository as a whole: sizes of files and functions, and documents that tell the truth."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel
from starlette.routing import Route

from genserve.api import docs, health
from genserve.api.dialects import native
from genserve.api.dialects.native_models import GenerateBody
from genserve.cli.exits import Exit
from genserve.cli.main import app
from genserve.core.metrics import Metrics
from genserve.domain import events
from genserve.domain.pool import WorkerInfo, WorkerState
from genserve.domain.task import TaskState
from genserve.errors import CommandFailed, StartupError, all_errors
from genserve.workers import messages

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/(?:work|root|home/\w+)/")
READMES = ("README.md", "README.zh-CN.md")


def source_files() -> list[Path]:
    folders = ("genserve", "tests", "scripts")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def text_files() -> Iterator[Path]:
    """What a clone holds: every file that git knows, or would."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    binary = {".safetensors", ".png", ".jpg", ".webp", ".gz"}
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_file() and path.suffix not in binary:
            yield path


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{node.name} has {lines} lines"


def test_no_file_names_a_place_on_somebodys_machine():
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in text_files()
        if (match := MACHINE_PATH.search(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_the_lock_is_plain():
    lines = [line for line in read("requirements.lock").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    names = [line.partition("==")[0] for line in lines]
    assert len(set(names)) == len(names)
    assert "# --- the tests" in read("requirements.lock")
    assert not [name for name in names if re.match(r"nvidia-(?!ml-py)|cuda-|triton", name)]


def test_the_lock_fits_the_projects_own_requirements():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    names = {re.split(r"[\[>;<=]", requirement)[0].lower() for requirement in asked}
    locked = {line.partition("==")[0] for line in read("requirements.lock").splitlines()}
    assert {re.sub(r"[-_.]+", "-", name) for name in names} <= locked


# The documents


def table_of(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table after `heading`, without its head."""
    after = text.partition(heading)[2]
    lines = re.search(r"(?:^\|.*\n)+", after, re.MULTILINE)
    assert lines, heading
    rows = [
        [cell.strip() for cell in line.strip("|\n").split(" | ")] for line in lines[0].splitlines()
    ]
    return rows[2:]


def commands() -> list[str]:
    top: Any = typer.main.get_command(app)
    found = []
    for name, command in top.commands.items():
        inner = getattr(command, "commands", None)
        found += [f"{name} {verb}" for verb in inner] if inner else [name]
    return found


def kinds_in(module: ModuleType) -> list[str]:
    """What tells the members of the module's closed union apart."""
    members = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BaseModel)
    ]
    return [
        member.model_fields["kind"].default for member in members if "kind" in member.model_fields
    ]


@pytest.mark.parametrize("name", READMES)
def test_a_readme_names_every_command(name):
    text = read(name)
    for command in commands():
        group, _, verb = command.partition(" ")
        assert f"`genserve {group}" in text
        assert not verb or re.search(rf"`(?:genserve {group} )?{verb}`", text), command


@pytest.mark.parametrize("name", READMES)
def test_a_readme_lists_the_exit_codes(name):
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", read(name), re.MULTILINE)}
    assert listed == {int(code) for code in Exit}


@pytest.mark.parametrize("name", READMES)
def test_a_readme_shows_the_example_scripts_as_they_are(name):
    for script in sorted((ROOT / "docs/examples").iterdir()):
        assert f"```bash\n{script.read_text(encoding='utf-8')}```" in read(name)


def test_both_readmes_have_the_same_shape():
    english, chinese = (read(name) for name in READMES)
    assert re.findall(r"^```bash\n(.*?)^```", english, re.M | re.S) == re.findall(
        r"^```bash\n(.*?)^```", chinese, re.M | re.S
    )
    headings = [re.findall(r"^(#+) ", text, re.M) for text in (english, chinese)]
    assert headings[0] == headings[1]
    rows = [len(re.findall(r"^\|", text, re.M)) for text in (english, chinese)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    "name",
    [
        *READMES,
        "CONTRIBUTING.md",
        *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))),
    ],
)
def test_links_between_documents_lead_somewhere(name):
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)#\s]+)", read(name)):
        if "://" not in target:
            assert (folder / target).exists(), target


def test_the_api_document_has_every_error_with_its_status():
    listed = {
        re.sub("`", "", row[1]): int(row[0]) for row in table_of(read("docs/api.md"), "## Errors")
    }
    of_commands = (StartupError, CommandFailed)
    told = {c: cls.status for c, cls in all_errors().items() if not issubclass(cls, of_commands)}
    assert listed == told


def test_the_operations_document_has_every_error_of_a_start_or_command():
    for code, cls in all_errors().items():
        if issubclass(cls, StartupError | CommandFailed):
            assert f"`{code}`" in read("docs/operations.md"), code


def test_the_api_document_has_every_route():
    routes = [
        f"{method} {route.path}"
        for router in (native.router, health.router, docs.router)
        for route in router.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    ]
    assert len(routes) > 20
    missing = [route for route in routes if f"`{route}`" not in read("docs/api.md")]
    assert missing == []


def test_the_api_document_has_every_field_of_a_request():
    rows = table_of(read("docs/api.md"), "## Making pictures")
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert listed == {field.alias or name for name, field in GenerateBody.model_fields.items()}


def test_the_api_document_has_every_event_and_state():
    text = read("docs/api.md")
    rows = table_of(text, "## Tasks and events")
    kinds = kinds_in(events)
    assert sorted(row[0].strip("`") for row in rows) == sorted(kinds)
    assert all(f"`{state}`" in text for state in TaskState)


def test_the_operations_document_has_every_metric():
    metrics = Metrics()
    metrics.watch_queue(dict)
    worker = WorkerInfo(id="w", device="cpu", state=WorkerState.IDLE, memory_total=1, memory_used=1)
    metrics.watch_workers(lambda: [worker])
    rendered = metrics.render().decode()
    names = set(re.findall(r"^# TYPE (\w+)", rendered, re.MULTILINE))
    rows = table_of(read("docs/operations.md"), "## Metrics")
    assert {row[0].strip("`") for row in rows} == {
        name for name in names if not name.endswith("_created")
    }


def test_the_architecture_document_has_every_message_of_the_pipe():
    text = read("docs/architecture.md")
    kinds = kinds_in(messages)
    assert len(kinds) > 10
    assert [kind for kind in kinds if f"| `{kind}` |" not in text] == []


def test_the_contributing_document_has_fifteen_rules():
    assert re.findall(r"^(\d+)\. ", read("CONTRIBUTING.md"), re.M) == [
        str(number) for number in range(1, 16)
    ]


def test_decisions_are_short():
    for path in sorted((ROOT / "docs/decisions").iterdir()):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 60, path.name
        assert {"## Context", "## Decision", "## Consequences"} <= set(lines), path.name
