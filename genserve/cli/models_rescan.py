"""`genserve models rescan`: the running server looks at the folders again.

`pull` and `rm` ask it to do so too.
"""

from collections.abc import Mapping
from typing import Any

import typer

from genserve.cli.options import ApiKey, AsJson, ConfigFile, Url, load, server_url
from genserve.cli.output import show_json, show_rows
from genserve.errors import CommandFailed, ServerUnreachable

CHANGES = ("added", "removed", "changed", "broken")


def rescan(
    url: Url = None,
    api_key: ApiKey = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Have the running server find new, changed and removed weights, without a restart."""
    from genserve.cli.client import Client

    with Client(server_url(load(config_file), url), api_key) as client:
        answer: dict[str, Any] = client.post("/models/rescan", patient=True)
    if as_json:
        show_json(answer)
        return
    rows = [{"change": change} | item for change in CHANGES for item in answer[change]]
    columns = ("change", "kind", "name", "available", "problem")
    show_rows(columns, rows, as_json=False, empty="nothing is different, and nothing is broken")


def tell_server(url: str, api_key: str | None) -> dict[str, Any] | None:
    """Have the server at that address do so, after the folders were changed.

    None when none runs there, or it does not do it: then it is said why, and that is no failure of
    the command, which has done its part.
    """
    from genserve.cli.client import Client

    with Client(url, api_key) as client:
        if not client.answers():
            return None
        try:
            answer: dict[str, Any] = client.post("/models/rescan", patient=True)
        except ServerUnreachable:
            return None
        except CommandFailed as error:
            told = f"the server at {url} was not told of it: {error.detail('en')}"
            typer.echo(f"{told}; run genserve models rescan with an admin's key", err=True)
            return None
    return answer


def found(answer: Mapping[str, Any]) -> list[str]:
    """What the server said that it found different, a line for each."""
    return [
        f"the running server: {item['kind']} {item['name']} was {verb}"
        + (f", but cannot be used: {item['problem']}" if item["problem"] else "")
        for verb in ("added", "removed", "changed")
        for item in answer[verb]
    ]
