"""The `genserve models` commands, put together."""

import typer

from genserve.cli import (
    listings,
    models_loaded,
    models_look,
    models_pull,
    models_remove,
    models_rescan,
)

app = typer.Typer(
    help="Fetch, look at, load and remove models.",
    no_args_is_help=True,
)
app.command("list")(listings.list_models)
app.command("pull")(models_pull.pull)
app.command("scan")(models_look.scan)
app.command("info")(models_look.info)
app.command("rm")(models_remove.rm)
app.command("rescan")(models_rescan.rescan)
app.command("load")(models_loaded.load_model)
app.command("unload")(models_loaded.unload_model)
