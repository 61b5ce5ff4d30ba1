"""Options that several commands share, and the configuration that they lead to."""

from pathlib import Path
from typing import Annotated, Any

import typer

from genserve import config_sources
from genserve.config import Config

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file (default: config.yaml).", metavar="FILE"),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder for all that the server writes.", metavar="FOLDER"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Url = Annotated[
    str | None,
    typer.Option("--url", envvar="GENSERVE_URL", help="Address of the running server."),
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar="GENSERVE_API_KEY", help="Key to call the server with."),
]


def overrides(
    *, host: str | None = None, port: int | None = None, data_dir: Path | None = None
) -> dict[str, Any]:
    """Settings from the command line, in the configuration's own nesting."""
    server = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    return {
        **({"server": server} if server else {}),
        **({"data_dir": data_dir} if data_dir is not None else {}),
    }


def load(config_file: Path | None, data_dir: Path | None = None) -> Config:
    """The configuration as a command sees it. Raises `ConfigError`."""
    return config_sources.load(config_file, overrides(data_dir=data_dir))


def server_url(config: Config, url: str | None) -> str:
    """Where the running server is: as named, or where the configuration lets it listen."""
    if url is not None:
        return url.rstrip("/")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(  # noqa: S104 - not a binding
        config.server.host, config.server.host
    )
    return f"http://{f'[{host}]' if ':' in host else host}:{config.server.port}"
