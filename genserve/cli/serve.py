"""`genserve serve`: the server in the foreground."""

from functools import partial
from typing import Annotated

import typer

from genserve import config_sources, logs
from genserve.cli.options import ConfigFile, DataDir, overrides


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any free one.")] = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Start the server. SIGTERM or Ctrl-C lets running tasks end; a second one stops at once."""
    asked = overrides(host=host, port=port, data_dir=data_dir)
    read = partial(config_sources.load, config_file, asked)
    config = read()
    logs.configure(config.log.level, config.log.format, config.log.prompts)

    from genserve.cli.sockets import listen

    sockets = listen(config.server.host, config.server.port)
    try:
        from genserve.cli.server import run_server

        code = run_server(config, sockets, reread=read)
    finally:
        for opened in sockets:
            opened.close()
    raise typer.Exit(code)
