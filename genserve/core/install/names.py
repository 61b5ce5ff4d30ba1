"""Names that become folders and files below the models and LoRA folders."""

import re

from genserve.errors import BadModelName

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def checked_name(name: str) -> str:
    """The name, if it can only mean something directly in its folder. Raises `BadModelName`."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise BadModelName(name=name[:100])
    return name
