"""Key files of earlier versions: `api_keys.json`, or `api_keys.enc` under the encryption key.

Read once, stored as rows, and then put away. Read in every shape they are known to have; but what
a key may do is never guessed: an entry that cannot be understood stops the start.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
)

from genserve.config import DEFAULT_API_KEY
from genserve.domain.api_key import is_mistyped
from genserve.domain.caller import Permission
from genserve.errors import BadKeyFile, CannotDecryptFile, FileForbidden, WrongMasterKey
from genserve.store.secrets import sync_folder

PLAIN = "api_keys.json"
ENCRYPTED = "api_keys.enc"
PUT_AWAY = ".imported"


@dataclass(frozen=True, slots=True)
class LegacyKey:
    """One key of such a file."""

    key: str = field(repr=False)
    name: str
    permissions: frozenset[Permission]
    expires_at: datetime | None


def find(folders: list[Path]) -> list[Path]:
    """The key files that wait in these folders."""
    unique = list(dict.fromkeys(folder.resolve() for folder in folders))
    paths = [folder / name for folder in unique for name in (ENCRYPTED, PLAIN)]
    try:
        return [path for path in paths if path.exists()]
    except OSError as error:
        raise FileForbidden(file=str(error.filename)) from None


def is_encrypted(path: Path) -> bool:
    """Whether the file needs the encryption key."""
    return path.name == ENCRYPTED


def read(path: Path, decrypt: Callable[[bytes], str]) -> list[LegacyKey]:
    """The keys of one file, without the documented default key and those switched off.

    Raises `FileForbidden`, `CannotDecryptFile`, `BadKeyFile`; the file is left as it is.
    """
    try:
        content = path.read_bytes()
    except OSError:
        raise FileForbidden(file=str(path)) from None
    try:
        text = decrypt(content.strip()) if is_encrypted(path) else content.decode("utf-8-sig")
        entries = list(_entries(json.loads(text)))
    except WrongMasterKey:
        raise CannotDecryptFile(file=str(path)) from None
    except (ValueError, RecursionError):
        raise BadKeyFile(file=str(path), problem="it is not JSON in UTF-8") from None
    found = [_checked(entry, number, path) for number, entry in enumerate(entries, 1)]
    return [
        LegacyKey(entry.key, entry.name, entry.permissions, entry.expires_at)
        for entry in found
        if entry.enabled and not entry.revoked and entry.key != DEFAULT_API_KEY
    ]


def put_away(path: Path) -> None:
    """Rename an encrypted file; delete a plaintext one. Only after its keys are stored.

    Deleting is all that can be done: overwriting first reaches other cells on a solid-state disk.
    Raises `FileForbidden`.
    """
    try:
        if is_encrypted(path):
            path.replace(path.with_name(path.name + PUT_AWAY))
        else:
            path.unlink()
        sync_folder(path.parent)
    except OSError:
        raise FileForbidden(file=str(path)) from None


def _entries(content: Any) -> Iterator[Any]:
    """The entries of a list, of a mapping from key or name, or of either below "api_keys"."""
    if isinstance(content, list):
        yield from content
    elif isinstance(content, dict):
        inner = content.get("api_keys", content.get("keys"))
        if isinstance(inner, dict | list):
            yield from _entries(inner)
        else:
            yield from (_titled(title, entry) for title, entry in content.items())
    else:
        yield content


def _titled(title: str, entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    titles_name = "key" in entry or "api_key" in entry
    return {"name" if titles_name else "key": title, **entry}


def _words(value: Any) -> Any:
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    return value


def _in_utc(value: datetime | None) -> datetime | None:
    return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class _Entry(BaseModel):
    key: Annotated[str, Field(min_length=8, validation_alias=AliasChoices("key", "api_key"))]
    name: Annotated[str, Field(min_length=1, max_length=200)] = "imported"
    permissions: Annotated[frozenset[Permission], BeforeValidator(_words), Field(min_length=1)]
    expires_at: Annotated[datetime | None, AfterValidator(_in_utc)] = None
    enabled: Annotated[
        bool, Field(validation_alias=AliasChoices("enabled", "active", "is_active"))
    ] = True
    revoked: Annotated[bool, Field(validation_alias=AliasChoices("revoked", "disabled"))] = False


def _checked(entry: Any, number: int, path: Path) -> _Entry:
    try:
        checked = _Entry.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "entry"
        problem = f"key {number}: {place}: {first['msg']}"
        raise BadKeyFile(file=str(path), problem=problem) from None
    if is_mistyped(checked.key):
        problem = f"key {number}: its last six characters do not fit the others"
        raise BadKeyFile(file=str(path), problem=problem)
    return checked
