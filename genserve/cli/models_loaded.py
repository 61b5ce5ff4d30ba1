"""`genserve models load | unload`: what the running server's workers hold in memory."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from genserve.cli.exits import Exit
from genserve.cli.options import ApiKey, AsJson, ConfigFile, Url, load, server_url
from genserve.cli.output import show_json, show_rows

ModelId = Annotated[str, typer.Argument(help="A model id; see `genserve models list`.")]
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Do not wait until idle workers have done it.")
]


def load_model(
    model_id: ModelId,
    no_wait: NoWait = False,
    url: Url = None,
    api_key: ApiKey = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Have every worker of the running server load a model; busy ones do so after their task."""
    answer = _ask("load", model_id, no_wait, server_url(load(config_file), url), api_key)
    _show(answer, as_json=as_json)


def unload_model(
    model_id: ModelId,
    no_wait: NoWait = False,
    url: Url = None,
    api_key: ApiKey = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Have every worker of the running server give a model's memory back."""
    answer = _ask("unload", model_id, no_wait, server_url(load(config_file), url), api_key)
    _show(answer, as_json=as_json)


def _ask(verb: str, model_id: str, no_wait: bool, url: str, api_key: str | None) -> dict[str, Any]:
    from genserve.cli.client import Client

    with Client(url, api_key) as client:
        path = f"/models/{quote(model_id, safe='')}/{verb}"
        answer: dict[str, Any] = client.post(path, patient=not no_wait)
    return answer


def _show(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(answer)
    else:
        if answer["served_by"] != answer["model_id"]:
            typer.echo(f"{answer['model_id']} is served by {answer['served_by']}")
        show_rows(("id", "outcome", "detail"), answer["workers"], as_json=False)
    if not answer["success"]:
        raise typer.Exit(Exit.FAILED)
