"""`genserve models pull`: fetches a model or a LoRA and puts it into its folder."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from genserve import config_sources
from genserve.cli.files import told_in_one_line
from genserve.cli.models_rescan import found, tell_server
from genserve.cli.options import ApiKey, AsJson, ConfigFile, Url, load, server_url
from genserve.cli.output import show_json, show_rows
from genserve.config import Config
from genserve.domain.sizes import in_words
from genserve.errors import ConfigError

if TYPE_CHECKING:
    from genserve.core.install.asked import Asked
    from genserve.core.install.places import Installed
    from genserve.core.install.pull import Plan
    from genserve.outbound.checksum import Checksum
    from genserve.outbound.hub import Hub

FAMILIES = {
    "StableDiffusionXL": "sdxl",
    "StableDiffusion3": "sd3",
    "StableDiffusion": "sd15",
    "Flux": "flux",
}
"""What the class in model_index.json begins with → family, the longest first."""


def pull(
    what: Annotated[
        str,
        typer.Argument(
            help="A model id, a repository as owner/name or owner/name@revision, or the https "
            "address of one .safetensors file.",
            metavar="MODEL_ID|REPOSITORY|ADDRESS",
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--as", help="What to call it here.", metavar="NAME")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Weights to prefer where there are several, as fp16.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="What an address must lead to: 64 hexadecimal digits.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be fetched, with sizes; fetch nothing."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what is installed under that name.")
    ] = False,
    url: Url = None,
    api_key: ApiKey = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a model or LoRA, verify it, and put it into its folder. Cut short, it goes on.

    A server that runs is told of it. Reads HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE, from the
    environment or .env.
    """
    config = load(config_file)
    settings = config_sources.hub_settings()

    from genserve.core.install.asked import Options, understand
    from genserve.outbound.hub import open_hub

    checksum = _checksum(sha256)
    command = f"genserve models pull {what}" + (f" --as {name}" if name else "")
    with told_in_one_line(), open_hub(settings, command=command) as hub:
        asked = understand(config, hub, what, Options(name, variant, force))
        if asked.wanted is None:
            installed = _from_address(asked, checksum, dry_run=dry_run, as_json=as_json)
        elif checksum is not None:
            raise ConfigError(problem="--sha256 is for an address; the hub tells its own checksums")
        else:
            installed = _from_hub(hub, asked, dry_run=dry_run, as_json=as_json)
    if installed is not None:
        answer = tell_server(server_url(config, url), api_key)
        _tell(config, asked, installed, answer, as_json=as_json)


def _checksum(sha256: str | None) -> "Checksum | None":
    from genserve.outbound.checksum import Checksum

    if sha256 is None:
        return None
    try:
        return Checksum.sha256(sha256)
    except ValueError as error:
        raise ConfigError(problem=f"--sha256 {error}") from None


def _from_hub(hub: "Hub", asked: "Asked", *, dry_run: bool, as_json: bool) -> "Installed | None":
    from genserve.cli.pull_progress import PullProgress
    from genserve.core.install.places import free_bytes
    from genserve.core.install.pull import plan, pull_from_hub
    from genserve.outbound.transfer import Transfer

    assert asked.wanted is not None
    if dry_run:
        _show_plan(asked, plan(hub, asked.wanted), as_json=as_json)
        return None
    with PullProgress() as progress:
        transfer = Transfer(hub.client, free_bytes=free_bytes)
        return pull_from_hub(hub, asked.wanted, asked.places, transfer, progress)


def _from_address(
    asked: "Asked", checksum: "Checksum | None", *, dry_run: bool, as_json: bool
) -> "Installed | None":
    from genserve.cli.pull_progress import PullProgress
    from genserve.core.install.address import at_address
    from genserve.core.install.places import free_bytes
    from genserve.core.install.pull import pull_address
    from genserve.outbound.client import check_address, open_client, size_at
    from genserve.outbound.transfer import Transfer

    assert asked.address is not None
    check_address(asked.address)
    remote = at_address(asked.address, checksum)
    with open_client(asked.address) as client:
        if dry_run:
            row = {"file": remote.name, "size_bytes": size_at(client, remote.url)}
            _show_files(asked, {"address": remote.url}, [row], as_json=as_json)
            return None
        with PullProgress() as progress:
            transfer = Transfer(client, free_bytes=free_bytes)
            return pull_address(remote, asked.places, transfer, progress)


def _show_plan(asked: "Asked", plan: "Plan", *, as_json: bool) -> None:
    files = [
        {"file": one.path, "size_bytes": one.file.size, "checksum": str(one.file.checksum)}
        for one in plan.choice.files
    ]
    about = {
        "repository": plan.listing.repository,
        "revision": plan.listing.commit,
        "gated": plan.listing.gated,
    }
    _show_files(asked, about, files, as_json=as_json)


def _show_files(
    asked: "Asked", about: dict[str, Any], files: list[dict[str, Any]], *, as_json: bool
) -> None:
    from genserve.core.install.places import free_bytes

    sizes = [file["size_bytes"] for file in files]
    total = None if None in sizes else sum(sizes)
    free = free_bytes(asked.places.models_dir)
    if as_json:
        folder = str(asked.places.model)
        told = {"folder": folder, "size_bytes": total, "free_bytes": free, "files": files}
        show_json(about | told)
        return
    rows = [file | {"size": _size(file["size_bytes"])} for file in files]
    show_rows(["file", "size"], rows, as_json=False)
    where = about.get("address") or f"{about['repository']} at {about['revision'][:12]}"
    typer.echo(f"\n{where}: {len(files)} files, {_size(total)}, into {asked.places.model}")
    typer.echo(f"{in_words(free)} are free there")
    if about.get("gated"):
        page = f"{config_sources.HUB}/{about['repository']}"
        typer.echo(f"its licence must be accepted at {page}, and HF_TOKEN set")


def _size(size_bytes: int | None) -> str:
    return "of unknown size" if size_bytes is None else in_words(size_bytes)


def _tell(
    config: Config,
    asked: "Asked",
    installed: "Installed",
    server: dict[str, Any] | None,
    *,
    as_json: bool,
) -> None:
    """What was installed, what the running server says to it, and what is to be done next."""
    hints = list(_hints(config, asked, installed))
    if as_json:
        show_json(
            {
                "became": installed.became,
                "path": str(installed.path),
                "size_bytes": installed.size_bytes,
                "model_id": asked.model_id,
                "next": hints,
                "server": server,
            }
        )
        return
    typer.echo(f"{installed.became}: {installed.path} ({in_words(installed.size_bytes)})")
    for line in found(server) if server is not None else ():
        typer.echo(line)
    for hint in hints:
        typer.echo(hint)


def _hints(config: Config, asked: "Asked", installed: "Installed") -> list[str]:
    from genserve.core.install.places import Became

    name, restart = asked.places.name, "restart a running server then: it reads that once"
    if installed.became is Became.LORA:
        return [f"its name in requests is {installed.path.stem}"]
    if asked.model_id is not None:
        base = config.models[asked.model_id].base
        return [f"it adds to {base}: have that too, by genserve models pull {base}"] if base else []
    if installed.became is Became.PART:
        return [
            f"name it in config.yaml, as `controls: {{canny: {name}}}` or `vae: {name}`",
            restart,
        ]
    family = _family(installed.pipeline)
    return [f"add it to config.yaml, below models:  {name}: {{family: {family}}}", restart]


def _family(pipeline: str | None) -> str:
    for begin, family in FAMILIES.items():
        if pipeline is not None and pipeline.startswith(begin):
            return family
    return "FAMILY"
