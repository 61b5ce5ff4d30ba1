"""What the server needs to start: its configuration, port, database, keys and models."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import make_url

from genserve.cli.checks.finding import Finding, note, ok, problem
from genserve.cli.client import Client
from genserve.cli.options import server_url
from genserve.cli.sockets import listen
from genserve.config import Config
from genserve.core.catalog import Catalog
from genserve.errors import DataFolderInUse, GenServeError, StartupError
from genserve.store.connections import OLDEST_SQLITE
from genserve.store.database import Database
from genserve.store.datafolder import DataFolder


def check(config: Config, url: str | None) -> Iterator[Finding]:
    """The port, SQLite's version, the database, the models and the LoRAs."""
    yield _port(config, url)
    yield _sqlite()
    yield _database(config)
    yield from _models(config)


def _port(config: Config, url: str | None) -> Finding:
    address = server_url(config, url)
    with Client(address, None) as client:
        if client.answers():
            return ok("port", f"a GenServe server answers at {address}")
    try:
        for opened in listen(config.server.host, config.server.port):
            opened.close()
    except StartupError as error:
        return problem("port", error.title("en"), error.detail("en"))
    return ok("port", f"{config.server.port} on {config.server.host} is free")


def _sqlite() -> Finding:
    found = f"{sqlite3.sqlite_version}, built into Python"
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        return problem("sqlite", found, f"use a Python with SQLite {oldest} or newer")
    return ok("sqlite", found)


def _database(config: Config) -> Finding:
    """Opened as the server opens it; left alone while a server holds it."""
    kind = "SQLite in the data folder" if config.store.url is None else "as store.url names it"
    if not config.data_dir.exists() or _not_made_yet(config):
        return ok("database", f"{kind}; made at the first start")
    try:
        folder = DataFolder.open(config.data_dir)
    except DataFolderInUse:
        return ok("database", f"{kind}; in use by the running server")
    except GenServeError as error:
        return problem("database", error.title("en"), error.detail("en"))
    try:
        Database.open(config.database_url, migrate=False).close()
    except GenServeError as error:
        return problem("database", error.title("en"), error.detail("en"))
    finally:
        folder.close()
    return ok("database", kind)


def _not_made_yet(config: Config) -> bool:
    """Whether the SQLite file is still to come; looking must not make it."""
    url = make_url(config.database_url)
    name = url.database or ""
    return url.get_backend_name() == "sqlite" and not Path(name).exists()


def _models(config: Config) -> Iterator[Finding]:
    try:
        catalog = Catalog(config)
    except StartupError as error:
        yield problem("models", error.title("en"), error.detail("en"))
        return
    entries = catalog.models()
    for entry in entries:
        if entry.problem is not None:
            remedy = f"install it again, or remove {entry.spec.folder}"
            yield problem(f"model {entry.spec.id}", entry.problem, remedy)
        elif entry.installed:
            for control, reason in entry.missing_controls.items():
                yield note(f"model {entry.spec.id}", f"cannot follow {control} maps", reason)
    real = [entry.spec.id for entry in entries if entry.served_by == entry.spec.id]
    borrowed = [e.spec.id for e in entries if e.served_by not in (None, e.spec.id)]
    if not any(entry.served_by for entry in entries):
        yield problem("models", "none can draw", "put a model's folder into models/; see README")
    elif borrowed:
        found = f"{', '.join(real)}; also drawing for {', '.join(borrowed)}"
        yield note("models", found, "for real pictures, add real weights; see README")
    else:
        yield ok("models", ", ".join(real))
    yield from _loras(catalog)


def _loras(catalog: Catalog) -> Iterator[Finding]:
    loras = catalog.loras()
    for lora in loras:
        if lora.problem is not None:
            yield note(f"lora {lora.name}", lora.problem, "replace or remove the file")
    yield ok("loras", str(sum(lora.source is not None for lora in loras)))
