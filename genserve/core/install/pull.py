"""Fetches a model, a part of one, or a LoRA, and puts it into its place when it is whole and sound.

    look at the repository ─► choose the files ─► room on the disk? ─► fetch, verify ─► scan ─► move

Nothing of it is where the server looks before the last step. A command that was cut short leaves
what it has in the staging folder, and the next one goes on from there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from genserve.core.install.arrival import install
from genserve.core.install.choice import ALONE, INDEX, Choice, Chosen, Kind, choose, choose_file
from genserve.core.install.fetching import Watcher, fetch_all
from genserve.core.install.places import Installed, Places, free_bytes
from genserve.core.install.staging import Staging, open_staging
from genserve.domain.sizes import in_words
from genserve.errors import NotEnoughDisk, PickleRefused, UnusableDownload
from genserve.outbound.hub import Hub, Listing, Source
from genserve.outbound.transfer import Remote, Transfer
from genserve.store.weights import PICKLES, BadFolder, model_components

Room = Callable[[Path], int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of the hub: a repository, or the file `path` of it; weights of the `variant` if any."""

    source: Source
    path: str | None = None
    variant: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be fetched, as far as it can be told from the list of files."""

    listing: Listing
    choice: Choice


def plan(hub: Hub, wanted: Wanted) -> Plan:
    """Look at the repository and fetch nothing. Raises what `Hub.look` and `choose` raise."""
    listing, where = hub.look(wanted.source), str(wanted.source)
    if wanted.path is not None:
        return Plan(listing, choose_file(where, listing.files, wanted.path))
    return Plan(listing, choose(where, listing.files, variant=wanted.variant))


def pull_from_hub(
    hub: Hub,
    wanted: Wanted,
    places: Places,
    transfer: Transfer,
    watcher: Watcher,
    room: Room = free_bytes,
) -> Installed:
    """Install what is wanted. Raises `CommandFailed` of many kinds, and `OSError`."""
    planned = plan(hub, wanted)
    listing, choice = planned.listing, planned.choice
    places.refuse_taken(choice.kind)
    with open_staging(places.models_dir, places.name) as staging:
        staging.keep(_digests(choice))
        if choice.kind is Kind.PIPELINE:
            components = _components(hub, planned, places, staging, transfer)
            choice = choose(
                str(wanted.source), listing.files, components=components, variant=wanted.variant
            )
            staging.keep(_digests(choice))
        _check_room(staging, choice.files, watcher, room)
        files = [(one.path, hub.remote(listing, one.file)) for one in choice.files]
        fetch_all(files, staging, transfer, watcher)
        notes = {"repository": listing.repository, "revision": listing.commit}
        return install(staging, choice.kind, places, notes | {"files": _digests(choice)})


def pull_address(remote: Remote, places: Places, transfer: Transfer, watcher: Watcher) -> Installed:
    """Install the one file behind an address. Raises as `pull_from_hub`."""
    refuse_pickle(remote)
    places.refuse_taken(Kind.SINGLE)
    path = f"{places.name}{Path(remote.name).suffix if remote.name.endswith(ALONE) else ALONE[0]}"
    told = str(remote.checksum) if remote.checksum else "unchecked"
    with open_staging(places.models_dir, places.name) as staging:
        staging.keep({path: f"{remote.url} {told}"})
        fetch_all([(path, remote)], staging, transfer, watcher)
        return install(staging, Kind.SINGLE, places, {"address": remote.url, "files": {path: told}})


def refuse_pickle(remote: Remote) -> None:
    """Raises `PickleRefused` for an address that names one."""
    if Path(remote.name).suffix.lower() in PICKLES:
        raise PickleRefused(where=remote.url, files=[remote.name])


def _digests(choice: Choice) -> dict[str, str]:
    return {one.path: str(one.file.checksum) for one in choice.files}


def _components(
    hub: Hub, planned: Plan, places: Places, staging: Staging, transfer: Transfer
) -> list[str]:
    """The folders that model_index.json names and a recipe reads.

    What cannot be run is refused before it is fetched.
    Raises `UnusableDownload` and as `Transfer.fetch`.
    """
    [index] = [one for one in planned.choice.files if one.path == INDEX]
    target = staging.files / INDEX
    if not target.exists():
        transfer.fetch(hub.remote(planned.listing, index.file), target, lambda _: None)
    try:
        return list(model_components(staging.files))
    except BadFolder as bad:
        staging.discard()
        raise UnusableDownload(name=places.name, problem=bad.problem) from None


def _check_room(staging: Staging, files: Sequence[Chosen], watcher: Watcher, room: Room) -> None:
    sizes = {one.path: one.file.size for one in files}
    missing, free = staging.missing_bytes(sizes), room(staging.files)
    if missing > free:
        raise NotEnoughDisk(
            folder=str(staging.files), needed=in_words(missing), free=in_words(free)
        )
    watcher.begin(sum(sizes.values()), staging.whole_bytes(sizes))
