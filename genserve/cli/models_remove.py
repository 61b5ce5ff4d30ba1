"""`genserve models rm`: deletes a model, a LoRA or an unfinished pull, after asking."""

import sys
from typing import Annotated

import typer

from genserve.cli.files import told_in_one_line
from genserve.cli.models_rescan import found as found_by_server
from genserve.cli.models_rescan import tell_server
from genserve.cli.options import ApiKey, ConfigFile, Url, load, server_url
from genserve.config import Config
from genserve.domain.sizes import in_words
from genserve.errors import CommandFailed, ServerUnreachable


def rm(
    name: Annotated[
        str, typer.Argument(help="A model id, a folder below models_dir, or a LoRA's name.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    config_file: ConfigFile = None,
) -> None:
    """Delete a model, a LoRA or an unfinished pull. Asks first."""
    config = load(config_file)

    from genserve.core.install.graves import finish_removals
    from genserve.core.install.removal import find, remove
    from genserve.core.install.staging import STAGE

    finish_removals(config.models_dir / STAGE)
    found = find(config, name)
    if found.others:
        typer.echo(f"other models are drawn with it: {', '.join(found.others)}", err=True)
    warning = _warning(config, found.model_ids, url, api_key)
    if warning:
        typer.echo(warning, err=True)
    if not yes:
        if not sys.stdin.isatty():
            raise CommandFailed(problem="nobody is there to be asked: say --yes to delete it")
        typer.confirm(f"Delete {found.path} ({in_words(found.size_bytes)})?", abort=True)
    with told_in_one_line():
        remove(config, found)
    typer.echo(f"deleted {found.path} ({in_words(found.size_bytes)})")
    answer = tell_server(server_url(config, url), api_key)
    for line in found_by_server(answer) if answer is not None else ():
        typer.echo(line)


def _warning(
    config: Config, model_ids: tuple[str, ...], url: str | None, api_key: str | None
) -> str | None:
    """What the running server, if there is one, has to say to that."""
    from genserve.cli.client import Client

    if not model_ids:
        return None
    try:
        with Client(server_url(config, url), api_key) as client:
            workers = client.get("/status")["workers"]
    except ServerUnreachable:
        return None
    except CommandFailed as error:
        return f"a server runs, but does not tell whether it has it loaded: {error.detail('en')}"
    holders = [worker["id"] for worker in workers if set(worker["loaded"]) & set(model_ids)]
    if not holders:
        return None
    return (
        f"the running server has it loaded ({', '.join(holders)}); it is unloaded when no task"
        " needs it any more"
    )
