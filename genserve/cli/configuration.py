"""`genserve config check | show`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel, SecretStr

from genserve import config_sources
from genserve.cli.options import AsJson, ConfigFile, load
from genserve.cli.output import cell, show_json, show_rows

app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
HIDDEN = "********"


@app.command()
def check(config_file: ConfigFile = None) -> None:
    """Say whether the configuration is valid; if not, name the setting and end with 2."""
    load(config_file)
    typer.echo("the configuration is valid")


@app.command()
def show(config_file: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show every setting as the server would see it, and where it comes from."""
    config = load(config_file)
    origins = config_sources.origins(config_file)
    for number, key in enumerate(config.keys.declared):
        origins[f"keys.declared[{number}]"] = key.variable
    rows = [
        {"setting": place, "value": value, "from": _origin(place, origins)}
        for place, value in settings(config)
    ]
    if as_json:
        show_json(rows)
    else:
        text = [{**row, "value": cell(row["value"])} for row in rows]
        show_rows(["setting", "value", "from"], text, as_json=False)


def settings(section: BaseModel, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting as ("server.port", 12411); secrets are hidden."""
    for name in type(section).model_fields:
        yield from _flattened(f"{above}{name}", getattr(section, name))


def _flattened(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    match value:
        case BaseModel():
            yield from settings(value, f"{place}.")
        case dict() if value:
            for name, inner in value.items():
                yield from _flattened(f"{place}.{name}", inner)
        case tuple() if value and isinstance(value[0], BaseModel):
            for number, inner in enumerate(value):
                yield from _flattened(f"{place}[{number}]", inner)
        case SecretStr():
            yield place, HIDDEN
        case Path() | frozenset():
            yield place, str(value) if isinstance(value, Path) else sorted(value)
        case _:
            yield place, value


def _origin(place: str, origins: dict[str, str]) -> str:
    """The most exact source of a setting: its own, or that of what it stands in."""
    while place:
        if place in origins:
            return origins[place]
        place = place.rpartition(".")[0]
    return "default"
