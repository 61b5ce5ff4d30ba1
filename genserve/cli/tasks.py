"""`genserve tasks list | cancel`, through the running server."""

from typing import Annotated

import typer

from genserve.cli.options import ApiKey, AsJson, ConfigFile, Url, load, server_url
from genserve.cli.output import show_rows

app = typer.Typer(help="Look at tasks and stop them.", no_args_is_help=True)
COLUMNS = ("task_id", "status", "mode", "model_id", "created_at", "finished_at")


@app.command("list")
def list_tasks(
    status: Annotated[
        str | None,
        typer.Option(help="Only: pending, processing, completed, failed or cancelled."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 50,
    url: Url = None,
    api_key: ApiKey = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List tasks, newest first: the key's own, or all with an admin's key."""
    from genserve.cli.client import Client

    with Client(server_url(load(config_file), url), api_key) as client:
        rows = client.get("/tasks", status=status, limit=limit)["tasks"]
    show_rows(COLUMNS, rows, as_json=as_json, empty="no tasks")


@app.command()
def cancel(
    task_ids: Annotated[list[str], typer.Argument(help="Ids of the tasks.", metavar="TASK_ID...")],
    url: Url = None,
    api_key: ApiKey = None,
    config_file: ConfigFile = None,
) -> None:
    """Cancel tasks: at once while they wait, within one step while they are worked on."""
    from genserve.cli.client import Client

    with Client(server_url(load(config_file), url), api_key) as client:
        for task_id in task_ids:
            answer = client.post(f"/task/{task_id}/cancel")
            typer.echo(f"{task_id}: {answer['status']}")
