"""`genserve keys create | list | revoke | rotate-master`.

A running server holds its data folder, so then the command goes through its admin API; otherwise it
opens the data folder itself, under the same lock.
"""

from datetime import UTC, datetime
from typing import Annotated

import typer

from genserve.cli.options import ApiKey, AsJson, ConfigFile, DataDir, Url
from genserve.cli.output import show_json, show_rows

app = typer.Typer(help="Issue, list and revoke API keys.", no_args_is_help=True)
COLUMNS = ("key_id", "name", "permissions", "owner", "source", "expires_at", "last_used_at")
MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what the key is for.")],
    permissions: Annotated[
        str, typer.Option(help="Comma-separated: generation, readonly, admin, all.")
    ] = "generation,readonly",
    owner: Annotated[
        str | None, typer.Option(help="Whose tasks it shares (default: an owner of its own).")
    ] = None,
    expires_at: Annotated[
        datetime | None, typer.Option(formats=MOMENTS, help="When it stops working, UTC.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it: the only time that it is ever shown."""
    from genserve.cli.key_desk import Wish, open_desk

    words = [word.strip() for word in permissions.split(",") if word.strip()]
    wish = Wish(name, words, owner, _as_utc(expires_at))
    with open_desk(config_file, data_dir, url, api_key) as desk:
        made = desk.create(wish)
    if as_json:
        show_json(made)
    else:
        typer.echo(made["api_key"])
        typer.echo(f"key_id {made['key_id']}; this is the only time the key is shown", err=True)


@app.command("list")
def list_keys(
    url: Url = None,
    api_key: ApiKey = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the keys by their ids; the keys themselves are never shown again."""
    from genserve.cli.key_desk import open_desk

    with open_desk(config_file, data_dir, url, api_key) as desk:
        rows = desk.list()
    show_rows(COLUMNS, rows, as_json=as_json, empty="no keys; the default key works on loopback")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")],
    url: Url = None,
    api_key: ApiKey = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Delete a key; it stops working at once."""
    from genserve.cli.key_desk import open_desk

    with open_desk(config_file, data_dir, url, api_key) as desk:
        desk.revoke(key_id)
    typer.echo(f"{key_id} is revoked")


@app.command("rotate-master")
def rotate_master(config_file: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Encrypt every stored key anew, under a new master key. Cut short, it can be started again.

    With API_KEYS_ENCRYPTION_KEY set, put the new key in front first: "NEW,OLD". Without it, the
    generated key is replaced.
    """
    from genserve.cli.key_desk import open_desk

    with open_desk(config_file, data_dir, None, None) as desk:
        report = desk.rotate_master(lambda done: typer.echo(f"{done} keys …", err=True))
    typer.echo(f"{report.changed} of {report.total} stored secrets were encrypted anew")
    if report.variable:
        typer.echo(f"the old key may now be removed from {report.variable}")


def _as_utc(moment: datetime | None) -> datetime | None:
    if moment is not None and moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return moment
