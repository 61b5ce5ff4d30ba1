"""`genserve models list` and `genserve loras list`: what the folders hold; needs no server."""

from collections.abc import Sequence

import typer

from genserve.cli.options import AsJson, ConfigFile, load
from genserve.cli.output import show_rows

loras = typer.Typer(help="Look at the LoRA files.", no_args_is_help=True)


@loras.callback()
def _loras() -> None:
    """Look at the LoRA files."""


def list_models(config_file: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the configured models: what they can do and which model draws for them."""
    config = load(config_file)

    from genserve.core.catalog import Catalog

    rows = [
        {
            "id": entry.spec.id,
            "family": entry.spec.family,
            "modes": list(entry.spec.capabilities.modes),
            "installed": entry.installed,
            "served_by": entry.served_by,
            "problem": entry.problem,
            "folder": str(entry.spec.folder),
            "description": entry.spec.description,
        }
        for entry in Catalog(config).models()
    ]
    columns: Sequence[str] = ("id", "modes", "installed", "served_by", "problem")
    show_rows(columns, rows, as_json=as_json, empty="no models are configured")


@loras.command("list")
def list_loras(config_file: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the LoRA files with what their headers say."""
    config = load(config_file)

    from genserve.core.catalog import Catalog

    rows = [
        {
            "name": lora.name,
            "base": lora.base,
            "kind": lora.kind,
            "rank": lora.rank,
            "trigger_words": list(lora.trigger_words),
            "size_bytes": lora.size_bytes,
            "problem": lora.problem,
        }
        for lora in Catalog(config).loras()
    ]
    columns = ("name", "base", "kind", "rank", "trigger_words", "size_bytes", "problem")
    show_rows(columns, rows, as_json=as_json, empty="no LoRA files in the loras folder")
