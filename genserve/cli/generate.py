"""`genserve generate "PROMPT" -o out.png`: one picture, with or without a running server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from genserve import logs
from genserve.cli.options import ApiKey, ConfigFile, Url, load, server_url
from genserve.errors import CommandFailed, ConfigError

if TYPE_CHECKING:
    from genserve.cli.drawing import OnStage, Stage

FORMATS = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp"}


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File to write; its ending chooses the format.")
    ] = Path("out.png"),
    model: Annotated[str, typer.Option(help="Model id; see `genserve models list`.")] = "flux1-dev",
    negative_prompt: Annotated[str, typer.Option(help="What not to draw.")] = "",
    width: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=100, help="Denoising steps.")] = None,
    cfg: Annotated[float | None, typer.Option(min=0, max=50, help="Guidance.")] = None,
    seed: Annotated[int | None, typer.Option(help="Absent: drawn, and told.")] = None,
    num_images: Annotated[
        int, typer.Option(min=1, max=10, help="More than one: out-1.png, out-2.png …")
    ] = 1,
    image_format: Annotated[
        Literal["png", "jpg", "webp"] | None,
        typer.Option("--format", help="Default: as the output file's ending says."),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    config_file: ConfigFile = None,
    visible_gpus: Annotated[
        str | None, typer.Option(envvar="CUDA_VISIBLE_DEVICES", hidden=True)
    ] = None,
) -> None:
    """Draw a picture into a file: through the running server, or without one if none answers."""
    config = load(config_file)
    files = _files(output, num_images)

    from genserve.cli.client import Client
    from genserve.cli.drawing import Wish, by_server, privately

    wish = Wish(
        prompt=prompt,
        model=model,
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        steps=steps,
        guidance=cfg,
        seed=seed,
        count=num_images,
        format=image_format or _format_of(output),
    )
    with _progress_bar() as on_stage, Client(server_url(config, url), api_key) as client:
        if url is not None or client.answers():
            drawn = by_server(client, wish, on_stage)
        else:
            logs.configure("warning", config.log.format, config.log.prompts)
            drawn = privately(config, visible_gpus, wish, on_stage)
    for file, picture in zip(files, drawn.pictures, strict=True):
        file.write_bytes(picture)
        typer.echo(f"{file} (seed {drawn.seed}, drawn by {drawn.served_by})")


def _format_of(output: Path) -> str:
    """The format that the file's ending names. Raises `ConfigError`."""
    try:
        return FORMATS[output.suffix.lower()]
    except KeyError:
        raise ConfigError(
            problem=f"-o {output}: must end in {', '.join(FORMATS)}, or set --format"
        ) from None


def _files(output: Path, count: int) -> list[Path]:
    """The files to write, found writable before anything is drawn. Raises `CommandFailed`."""
    if not output.absolute().parent.is_dir():
        raise CommandFailed(problem=f"there is no folder {output.absolute().parent}")
    if output.is_dir():
        raise CommandFailed(problem=f"{output} is a folder")
    if count == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{number}") for number in range(1, count + 1)]


@contextmanager
def _progress_bar() -> Iterator["OnStage"]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("starting", total=None)

        def show(stage: "Stage") -> None:
            bar.update(line, description=stage.text, total=stage.total, completed=stage.step)

        yield show
