"""Which files of a network's folder hold weights, and which of those are read. Without torch."""

from pathlib import Path

_VARIANT = "fp16"


def weights_in(folder: Path) -> list[Path]:
    """The files directly in a folder that hold weights; none where it is gone."""
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".gguf"))


def read_of(folder: Path) -> list[Path]:
    """Those of them that are read: a network is often there in several variants."""
    files = weights_in(folder)
    if quantised := [file for file in files if file.suffix == ".gguf"]:
        return quantised[:1]
    wanted = variant_of(folder)
    chosen = [file for file in files if _variant(file) == wanted]
    return chosen or files  # named in no way that we know: then rather too many than none


def variant_of(folder: Path) -> str | None:
    """ "fp16" where only such weights are there, as model.fp16.safetensors."""
    names = {_variant(file) for file in weights_in(folder) if file.suffix == ".safetensors"}
    return _VARIANT if names == {_VARIANT} else None


def _variant(file: Path) -> str | None:
    """As in model.fp16.safetensors and in model.fp16-00001-of-00002.safetensors."""
    _, dot, variant = file.stem.rpartition(".")
    return variant.partition("-")[0] if dot else None
