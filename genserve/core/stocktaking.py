"""What two looks at the folders of weights have found different. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from genserve.core.catalog import Catalog
from genserve.core.inventory import ModelEntry
from genserve.file_hashes import FileStamp
from genserve.store.extra_weights import ExtraFile


class Kind(StrEnum):
    """What can be added to, changed in or removed from the folders."""

    MODEL = "model"
    CONTROLNET = "controlnet"
    """Named by its model and what it follows, as sd15/canny."""
    LORA = "lora"
    VAE = "vae"
    EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing as it was found. `problem`: file and remedy, where it cannot be used.

    `there`: files of its own lie on disk. `state` changes whenever they do.
    """

    kind: Kind
    name: str
    there: bool
    available: bool
    problem: str | None
    state: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a look has found. `broken` is all that cannot be used now, also what was so before."""

    added: tuple[Item, ...]
    removed: tuple[Item, ...]
    changed: tuple[Item, ...]
    broken: tuple[Item, ...]


def compare(before: Catalog | None, now: Catalog) -> Changes:
    """What is different now; of `before` None, everything is new.

    What was removed is told as it is now: a model may be served by its stand-in from then on.
    """
    old = {} if before is None else _items(before)
    new = _items(now)
    there = {key for key, item in old.items() if item.there}
    return Changes(
        added=tuple(item for key, item in new.items() if item.there and key not in there),
        removed=tuple(
            new.get(key, _gone(item))
            for key, item in old.items()
            if item.there and not (key in new and new[key].there)
        ),
        changed=tuple(
            item
            for key, item in new.items()
            if key in old and item.there == old[key].there and item != old[key]
        ),
        broken=tuple(item for item in new.values() if item.there and item.problem is not None),
    )


def _gone(item: Item) -> Item:
    return Item(item.kind, item.name, there=False, available=False, problem=None, state=())


def _items(catalog: Catalog) -> dict[tuple[Kind, str], Item]:
    found = [
        *(item for entry in catalog.models() for item in _of_model(entry)),
        *(
            Item(
                Kind.LORA,
                lora.name,
                True,
                lora.source is not None,
                lora.problem,
                _state(lora.stamp),
            )
            for lora in catalog.loras()
        ),
        *(_of_file(Kind.VAE, file) for file in catalog.extras.vaes),
        *(_of_file(Kind.EMBEDDING, file) for file in catalog.extras.embeddings),
    ]
    return {(item.kind, item.name): item for item in found}


def _of_model(entry: ModelEntry) -> Iterator[Item]:
    yield Item(
        Kind.MODEL,
        entry.spec.id,
        there=entry.installed or entry.problem is not None,
        available=entry.served_by is not None,
        problem=entry.problem,
        state=(entry.stamp, entry.served_by or ""),
    )
    for control, folder in entry.controls.items():
        yield Item(
            Kind.CONTROLNET,
            f"{entry.spec.id}/{control}",
            there=folder.present,
            available=folder.present and folder.problem is None,
            problem=folder.problem,
            state=(folder.stamp,),
        )


def _of_file(kind: Kind, file: ExtraFile) -> Item:
    return Item(kind, file.name, True, file.problem is None, file.problem, (file.stamp,))


def _state(stamp: FileStamp | None) -> tuple[str, ...]:
    return () if stamp is None else (stamp.digest(),)
