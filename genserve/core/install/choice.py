"""Which files of a repository are worth fetching: those that are loaded, and each weight once.

Repositories hold the same weights several times: as pickles, in half precision, with and without
averaging, and all in one file for other programs. Pure.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from genserve.errors import NothingToLoad, PickleRefused
from genserve.outbound.hub import HubFile
from genserve.store.weights import PICKLES

LOADED = frozenset({".safetensors", ".json", ".txt", ".model"})
"""Weights, configurations, vocabularies: text, SentencePiece."""
ALONE = (".safetensors", ".gguf")
"""What may be a model, or its largest part, in one file."""
INDEX = "model_index.json"
OWN_SETTINGS = "genserve.json"
_UNREAD = frozenset({"safety_checker"})
_UNREAD_BY_DIFFUSION = _UNREAD | {"feature_extractor", "image_encoder"}
"""Components that no recipe reads. Those of FLUX.1 Redux by the latter two names are read."""
VARIANTS = ("fp16", "bf16", "ema", "non_ema")
"""What is taken where a component has no plain weights, the best first."""
_WEIGHTS = re.compile(
    r"(?P<base>(diffusion_pytorch_)?model|pytorch_model)"
    r"(\.(?P<variant>[a-z]\w*))?(?P<shard>-\d{5}-of-\d{5})?(\.(?P<late>[a-z]\w*))?\.safetensors"
)
_WEIGHTS_INDEX = re.compile(
    r"(?P<base>(diffusion_pytorch_)?model|pytorch_model)"
    r"\.safetensors\.index(\.(?P<variant>[a-z]\w*))?\.json"
)
_CONFIGS = frozenset(
    {"config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json"}
)


class Kind(StrEnum):
    """What a repository holds."""

    PIPELINE = "pipeline"
    """A whole model in diffusers' layout."""
    PART = "part"
    """One network with its config.json: a ControlNet, a VAE, an estimator."""
    SINGLE = "single"
    """One .safetensors or .gguf file: a LoRA or a checkpoint; its header tells."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A file, and its path below the model's folder."""

    file: HubFile
    path: str


@dataclass(frozen=True, slots=True)
class Choice:
    """What to fetch."""

    kind: Kind
    files: tuple[Chosen, ...]

    @property
    def size_bytes(self) -> int:
        return sum(chosen.file.size for chosen in self.files)


def choose(
    where: str,
    files: Sequence[HubFile],
    *,
    components: Collection[str] | None = None,
    variant: str | None = None,
) -> Choice:
    """The files of the repository `where` to fetch.

    `components` are those that its model_index.json names and that are read; None: not known yet.
    `variant`, as "fp16", is preferred where a component has it. Raises `PickleRefused`,
    `NothingToLoad`.
    """
    names = {file.path for file in files}
    if INDEX in names:
        return _pipeline(where, files, components, variant)
    top = [file for file in files if "/" not in file.path]
    weights = [file for file in top if file.path.endswith(ALONE)]
    if "config.json" in names:
        return Choice(Kind.PART, tuple(_component(where, top, variant)))
    if len(weights) == 1:
        return Choice(Kind.SINGLE, (Chosen(weights[0], weights[0].path),))
    if weights:
        listed = ", ".join(file.path for file in weights)
        problem = f"it has several files, name one by its address: {listed}"
        raise NothingToLoad(where=where, problem=problem)
    _refuse_pickles(where, files)
    raise NothingToLoad(where=where, problem="it has no model_index.json and no .safetensors file")


def choose_file(where: str, files: Sequence[HubFile], path: str) -> Choice:
    """That one file. Raises `PickleRefused`, `NothingToLoad`."""
    for file in files:
        if file.path == path:
            _refuse_pickles(where, [file])
            if path.endswith(ALONE):
                return Choice(Kind.SINGLE, (Chosen(file, PurePosixPath(path).name),))
    raise NothingToLoad(where=where, problem=f"it has no .safetensors or .gguf file {path}")


def _pipeline(
    where: str, files: Sequence[HubFile], components: Collection[str] | None, variant: str | None
) -> Choice:
    folders: dict[str, list[HubFile]] = {}
    chosen = []
    for file in files:
        path = PurePosixPath(file.path)
        if file.path in (INDEX, OWN_SETTINGS):
            chosen.append(Chosen(file, file.path))
        elif len(path.parts) == 2 and (components is None or path.parts[0] in components):
            folders.setdefault(path.parts[0], []).append(file)
    for name in _likely(folders) if components is None else folders:
        chosen += _component(where, folders[name], variant)
    return Choice(Kind.PIPELINE, tuple(chosen))


def _likely(folders: Mapping[str, Sequence[HubFile]]) -> list[str]:
    """The components that are read, as far as names tell: only Stable Diffusion has a UNet."""
    unread = _UNREAD_BY_DIFFUSION if "unet" in folders else _UNREAD
    return [
        name
        for name, files in folders.items()
        if name not in unread and any(PurePosixPath(one.path).name in _CONFIGS for one in files)
    ]


def _component(where: str, folder: Iterable[HubFile], variant: str | None) -> list[Chosen]:
    """What is loaded of one folder. Raises `PickleRefused` when that would be a pickle."""
    loaded: list[Chosen] = []
    by_variant: dict[str, list[Chosen]] = {}
    others: list[Chosen] = []
    pickles: list[HubFile] = []
    for file in folder:
        path = PurePosixPath(file.path)
        if path.suffix.lower() in PICKLES:
            pickles.append(file)
        elif match := _WEIGHTS.fullmatch(path.name) or _WEIGHTS_INDEX.fullmatch(path.name):
            found = match.groupdict()
            name = found["variant"] or found.get("late") or ""
            by_variant.setdefault(name, []).append(Chosen(file, str(path.with_name(_plain(match)))))
        elif path.suffix in LOADED and ".index." not in path.name:
            into = others if path.suffix == ".safetensors" else loaded
            into.append(Chosen(file, file.path))
    if by_variant:
        loaded += _once(by_variant[_best(by_variant, variant)])
    elif others:
        loaded += others
    elif pickles:
        _refuse_pickles(where, pickles)
    return loaded


def _plain(match: re.Match[str]) -> str:
    """The name without its variant: what loaders look for. Shards keep theirs: the index names
    them."""
    if match.re is _WEIGHTS_INDEX:
        return f"{match['base']}.safetensors.index.json"
    return match[0] if match["shard"] else f"{match['base']}.safetensors"


def _best(available: Collection[str], wanted: str | None) -> str:
    for variant in (wanted, "", *VARIANTS, *sorted(available)):
        if variant is not None and variant in available:
            return variant
    raise AssertionError("there is at least one")


def _once(files: list[Chosen]) -> list[Chosen]:
    """The weights in one file where there is one, without the shards that hold the same."""
    whole = [
        chosen
        for chosen in files
        if chosen.path.endswith(".safetensors") and "-of-" not in PurePosixPath(chosen.path).name
    ]
    return whole[:1] or files


def _refuse_pickles(where: str, files: Iterable[HubFile]) -> None:
    pickles = [file.path for file in files if PurePosixPath(file.path).suffix.lower() in PICKLES]
    if pickles:
        raise PickleRefused(where=where, files=[*sorted(pickles)[:10]])
