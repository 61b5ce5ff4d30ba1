"""`genserve models scan | info`: what lies in the folders; neither needs a server."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genserve.cli.exits import Exit
from genserve.cli.files import told_in_one_line
from genserve.cli.options import AsJson, ConfigFile, load
from genserve.cli.output import cell, show_json, show_rows
from genserve.config import Config
from genserve.domain.sizes import in_words
from genserve.errors import CommandFailed

if TYPE_CHECKING:
    from genserve.core.inventory import ModelEntry
    from genserve.store.model_parts import Part, Weights


def scan(config_file: ConfigFile = None, as_json: AsJson = False) -> None:
    """Look through models and LoRAs and name every problem; ends with 1 when there is one."""
    config = load(config_file)

    from genserve.core.install.survey import survey

    with told_in_one_line():
        found = survey(config)
    rows = [
        {
            "what": one.what,
            "name": one.name,
            "size": in_words(one.size_bytes),
            "size_bytes": one.size_bytes,
            "used_by": list(one.used_by),
            "path": str(one.path),
            "problem": one.problem,
        }
        for one in found
    ]
    if as_json:
        show_json([{name: row[name] for name in row if name != "size"} for row in rows])
    else:
        columns = ("what", "name", "size", "used_by", "problem")
        show_rows(columns, rows, as_json=False, empty="there are no models and no LoRAs")
    if any(one.problem for one in found):
        raise typer.Exit(Exit.FAILED)


def info(
    name: Annotated[str, typer.Argument(help="A model id, or a folder below models_dir.")],
    hashes: Annotated[
        bool, typer.Option("--hash", help="Read all weights for their SHA-256, if need be.")
    ] = False,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show a model: what it can do, its components, their sizes, types and hashes."""
    config = load(config_file)

    from genserve.core.catalog import Catalog
    from genserve.core.install.asked import folder_of
    from genserve.core.install.names import checked_name

    model = config.models.get(name)
    folder = config.models_dir / (folder_of(name, model) if model else checked_name(name))
    if model is None and not folder.is_dir():
        raise CommandFailed(problem=f"there is no model {name}, neither configured nor in {folder}")
    entry = Catalog(config).entry(name) if model else None
    parts = _parts(folder, entry)
    known = _known_hashes(folder, parts)
    if hashes:
        known = _complete_hashes(parts, known)
    about = {"name": name, "folder": str(folder)} | _state(folder, entry)
    told = about | _abilities(config, entry) | _source(folder)
    base = model.base if model else None
    rows = [_row(part, folder, known) | {"lent_by": base if part.lent else None} for part in parts]
    if as_json:
        show_json(told | {"components": rows})
        return
    for key, value in told.items():
        text = "@".join(value.values()) if isinstance(value, dict) else cell(value)
        typer.echo(f"{key.replace('_', ' '):16}{text}")
    if rows:
        typer.echo()
        columns = ["component", "class", "size", "parameters", "dtype", "sha256"]
        columns += ["lent_by"] if any(part.lent for part in parts) else []
        show_rows(columns, [_short(row) for row in rows], as_json=False)


def _parts(folder: Path, entry: "ModelEntry | None") -> "list[Part]":
    """Those of which can be told; what is wrong with the others, `_state` tells."""
    from genserve.store.model_parts import parts_of
    from genserve.store.weights import BadFolder

    try:
        return parts_of(folder, entry.spec.base if entry else None) if folder.is_dir() else []
    except BadFolder:
        return []


def _state(folder: Path, entry: "ModelEntry | None") -> dict[str, Any]:
    """As the catalogue or, of what is not configured, `scan` has it."""
    from genserve.core.install.survey import scan_any

    if entry is not None:
        return {"installed": entry.installed, "problem": entry.problem}
    _, scanned = scan_any(folder)
    sound = scanned.present and scanned.problem is None
    return {"installed": sound, "problem": scanned.problem}


def _abilities(config: Config, entry: "ModelEntry | None") -> dict[str, Any]:
    if entry is None:
        return {}
    spec, able = entry.spec, entry.spec.capabilities
    return {
        "family": spec.family,
        "description": spec.description,
        "served_by": entry.served_by,
        "modes": list(able.modes),
        "control_types": list(able.control_types),
        "schedulers": list(able.schedulers),
        "loras": able.loras,
        "negative_prompt": able.negative_prompt,
        "multiple_of": able.multiple_of,
        "max_pixels": able.max_pixels,
        "dtype": spec.dtype,
        "quantization": spec.quantization,
        "offload": spec.offload,
        "hash": entry.revision or None,
        "source": config.models[spec.id].source,
    }


def _source(folder: Path) -> dict[str, Any]:
    """Where `genserve models pull` got it from."""
    notes = _notes(folder)
    told = {key: notes[key] for key in ("repository", "revision", "address") if key in notes}
    return {"pulled_from": told} if told else {}


def _notes(folder: Path) -> dict[str, Any]:
    from genserve.core.install.staging import NOTES

    try:
        notes = json.loads((folder / NOTES).read_bytes())
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _known_hashes(folder: Path, parts: "list[Part]") -> dict[Path, str]:
    """What was verified when it was pulled, of files that nobody has touched since."""
    from genserve.core.install.staging import NOTES

    files = _notes(folder).get("files", {})
    known: dict[Path, str] = {}
    for weights in _all_weights(parts):
        kind, _, digest = str(files.get(str(weights.path.relative_to(folder)), "")).partition(":")
        if kind == "sha256" and weights.path.stat().st_mtime <= (folder / NOTES).stat().st_mtime:
            known[weights.path] = digest
    return known


def _complete_hashes(parts: "list[Part]", known: dict[Path, str]) -> dict[Path, str]:
    from genserve.store.model_parts import sha256_of

    missing = [weights for weights in _all_weights(parts) if weights.path not in known]
    with _reading(sum(weights.size_bytes for weights in missing)) as on_bytes:
        return known | {one.path: sha256_of(one.path, on_bytes) for one in missing}


@contextmanager
def _reading(total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("reading"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("", total=total)
        yield lambda count: bar.advance(line, count)


def _all_weights(parts: "list[Part]") -> "list[Weights]":
    return [weights for part in parts for weights in part.weights]


def _row(part: "Part", folder: Path, known: dict[Path, str]) -> dict[str, Any]:
    return {
        "component": part.name,
        "class": part.kind,
        "size_bytes": part.size_bytes,
        "parameters": part.parameters or None,
        "dtype": list(part.dtypes),
        "weights": [
            {
                "file": str(weights.path.relative_to(folder)),
                "size_bytes": weights.size_bytes,
                "sha256": known.get(weights.path),
            }
            for weights in part.weights
        ],
    }


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """As a table shows it: sizes in words, and only the beginning of each hash."""
    parameters = row["parameters"]
    digests = [str(one["sha256"])[:12] for one in row["weights"] if one["sha256"]]
    return row | {
        "size": None if row["lent_by"] else in_words(row["size_bytes"]),
        "parameters": f"{parameters / 1e6:,.1f} M" if parameters else None,
        "sha256": digests,
    }
