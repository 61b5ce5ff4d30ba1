"""How commands show lists: a table for people, JSON for scripts."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

FILE_WIDTH = 400
"""Columns where no terminal says otherwise: a pipe or file gets its rows unbroken."""


def show_json(value: Any) -> None:
    """Print a JSON document."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def show_rows(
    columns: Sequence[str], rows: Sequence[dict[str, Any]], *, as_json: bool, empty: str = ""
) -> None:
    """Print `rows`: with `as_json` whole, otherwise the named columns as a table.

    `empty` is what a table without rows says.
    """
    if as_json:
        show_json(list(rows))
        return
    if not rows:
        typer.echo(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(row.get(column))) for column in columns))
    Console(width=None if sys.stdout.isatty() else FILE_WIDTH).print(table)


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return str(value)
