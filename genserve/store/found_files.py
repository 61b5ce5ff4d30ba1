"""What no scan lets pass, whatever it looks for, and how files are shown to the operator.

What is wrong is said in words that fit behind the file's name.
"""

import json
import os
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 16 * 2**20
_LEADS_NOWHERE = "is a link that leads nowhere; put the file itself there"


class Unusable(Exception):
    """The text is the problem."""


def shown(text: str) -> str:
    """Text that may hold what UTF-8 cannot: bytes of a name in another encoding, which Python
    reads as surrogates, or half a pair from JSON. Neither an answer nor a log takes those."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def below(folder: Path, path: Path) -> str:
    """A file as the operator knows it: below the models folder."""
    return shown(f"{folder.name}/{path.relative_to(folder)}")


def unreadable(name: str, error: OSError) -> str:
    """The problem of what the system refuses to read."""
    return f"{shown(name)} cannot be read: {os.strerror(error.errno or 0)}"


def unreadable_below(root: Path, error: OSError, otherwise: str) -> str:
    """The same, of the file below `root` that the error names, or else of that one."""
    path = Path(str(error.filename or root)).absolute()
    inside = path != root.absolute() and path.is_relative_to(root.absolute())
    return unreadable(str(path.relative_to(root.absolute())) if inside else otherwise, error)


def wrong_name(path: Path) -> str | None:
    """What is wrong with a file's name: workers are told of files in JSON, which is UTF-8."""
    if shown(path.name) != path.name:
        return "cannot be used: its name is not UTF-8; rename it"
    above = str(path.parent.absolute())
    if shown(above) != above:
        return "lies below a folder whose name is not UTF-8; rename that"
    return None


def wrong_link(path: Path, root: Path) -> str | None:
    """What is wrong with where a link leads that lies in `root` or below. Raises `OSError`."""
    if not path.is_symlink():
        return None
    try:
        target = path.resolve()
    except RuntimeError:  # it leads to itself, as Python before 3.13 says it
        return _LEADS_NOWHERE
    if not target.is_relative_to(root.resolve()):
        return "is a link that leads outside; put the file itself there"
    return None if path.exists() else _LEADS_NOWHERE


def read_json(folder: Path, path: Path) -> dict[str, Any]:
    """The object in a small JSON file of a model's folder. Raises `Unusable`, `OSError`."""
    name = below(folder, path)
    if not path.is_file():
        raise Unusable(f"{name} is missing; download the whole model")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise Unusable(f"{name} is too large to be right; download it again")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise Unusable(f"{name} is not JSON; download it again") from None
    if not isinstance(content, dict):
        raise Unusable(f"{name} is broken; download it again")
    return content
