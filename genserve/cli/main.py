"""The `genserve` command: puts the commands together and turns errors into lines and exit codes.

Each command lives in its own small module and imports what is heavy only when it runs, so that
`genserve config show` does not wait for a web framework. torch is never imported here: what needs
it asks a child process.
"""

import sys
from typing import Annotated

import typer

from genserve import __version__
from genserve.cli import configuration, doctor, generate, keys, listings, models, serve, tasks
from genserve.cli.bench.command import bench
from genserve.cli.exits import Exit, exit_code
from genserve.errors import GenServeError

app = typer.Typer(
    name="genserve",
    help="A self-hosted image-generation server with a durable queue.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve.serve)
app.command()(generate.generate)
app.command()(doctor.doctor)
app.command()(bench)
app.add_typer(models.app, name="models")
app.add_typer(listings.loras, name="loras")
app.add_typer(keys.app, name="keys")
app.add_typer(tasks.app, name="tasks")
app.add_typer(configuration.app, name="config")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"genserve {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """A self-hosted image-generation server with a durable queue.

    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 no server answers.
    """


def run() -> None:
    """The entry point of the `genserve` command."""
    try:
        app(prog_name="genserve")
    except GenServeError as error:
        typer.echo(f"genserve: {error.detail('en')}", err=True)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
