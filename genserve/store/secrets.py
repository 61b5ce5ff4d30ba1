"""The master key that encrypts stored keys, and the secret that look-ups and links are made with.

The master key is what API_KEYS_ENCRYPTION_KEY says or, where nothing is configured, a file that
is made on first use. The root secret is random, lies in the database under the master key, and
therefore survives a change of the master key. docs/decisions/0004-keys-at-rest.md says why.
"""

import base64
import hmac
import os
import re
import secrets
from pathlib import Path
from typing import Self

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from genserve.errors import (
    BadMasterKey,
    FileForbidden,
    MasterKeyIsConfigured,
    MissingMasterKey,
    WrongMasterKey,
)

VARIABLE = "API_KEYS_ENCRYPTION_KEY"
FILE_NAME = "encryption_key"
ROOT_BYTES = 32

_MASTER_KEY = re.compile(r"[A-Za-z0-9_+/-]{43}=")


def parse_master_keys(text: str, variable: str) -> tuple[str, ...]:
    """The master keys of a comma list, the one that encrypts first.

    Both base64 alphabets are read (`openssl rand -base64 32` writes the other one). Raises
    `BadMasterKey`, which names `variable` and the length but not the key.
    """
    keys = tuple(part.strip() for part in text.split(","))
    for key in keys:
        if not _MASTER_KEY.fullmatch(key):
            raise BadMasterKey(variable=variable, length=len(key))
    return tuple(dict.fromkeys(key.translate(str.maketrans("+/", "-_")) for key in keys))


class KeyFile:
    """The generated master key: one line, readable by the server's user alone (mode 0600)."""

    def __init__(self, secrets_dir: Path) -> None:
        self.path = secrets_dir / FILE_NAME

    def read(self) -> tuple[str, ...]:
        """The keys in it, none when there is no file. Raises `BadMasterKey`, `FileForbidden`."""
        try:
            text = self.path.read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            return ()
        except OSError:
            raise FileForbidden(file=str(self.path)) from None
        return parse_master_keys(text, str(self.path))

    def write(self, keys: tuple[str, ...]) -> None:
        """Replace the file as a whole: a crash leaves the old one or the new one.

        Raises `FileForbidden`.
        """
        draft = self.path.with_name(FILE_NAME + ".new")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(",".join(keys) + "\n")
                file.flush()
                os.fsync(descriptor)
            draft.replace(self.path)
            sync_folder(self.path.parent)
        except OSError:
            raise FileForbidden(file=str(self.path)) from None

    def remove(self) -> None:
        """Delete the file, if there is one. Raises `FileForbidden`."""
        try:
            self.path.unlink(missing_ok=True)
            if self.path.parent.is_dir():
                sync_folder(self.path.parent)
        except OSError:
            raise FileForbidden(file=str(self.path)) from None


def sync_folder(folder: Path) -> None:
    """Make a rename or deletion in `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class MasterKeys:
    """What encrypts stored keys: the first key encrypts, all of them decrypt.

    Configured keys come before the file's, so that configuring a key where a file was used before
    works at once; `rotate-master` then makes the file superfluous and removes it.
    """

    def __init__(self, configured: tuple[str, ...], file: KeyFile) -> None:
        self._configured = configured
        self._file = file
        self._filed = file.read()
        keys = dict.fromkeys([*configured, *self._filed])
        self._fernets = [Fernet(key) for key in keys]

    @classmethod
    def open(cls, configured: str | None, secrets_dir: Path, *, ciphertext_exists: bool) -> Self:
        """Read the master keys; make one only where it cannot orphan any ciphertext.

        Raises `BadMasterKey`, `MissingMasterKey`, `FileForbidden`.
        """
        keys = () if configured is None else parse_master_keys(configured, VARIABLE)
        file = KeyFile(secrets_dir)
        if not keys and not file.read():
            if ciphertext_exists:
                raise MissingMasterKey(variable=VARIABLE)
            file.write((new_master_key(),))
        return cls(keys, file)

    @property
    def is_configured(self) -> bool:
        """Whether the first key comes from the configuration, not from the file."""
        return bool(self._configured)

    @property
    def is_rotating(self) -> bool:
        """Whether there is an older key beside the first."""
        return len(self._fernets) > 1

    def encrypt(self, text: str) -> bytes:
        """A Fernet token under the first key."""
        return self._fernets[0].encrypt(text.encode())

    def decrypt(self, token: bytes) -> str:
        """What a token of any of the keys holds. Raises `WrongMasterKey`."""
        try:
            return MultiFernet(self._fernets).decrypt(token).decode()
        except InvalidToken:
            raise WrongMasterKey from None

    def is_current(self, token: bytes) -> bool:
        """Whether the first key alone can decrypt it."""
        try:
            self._fernets[0].decrypt(token)
        except InvalidToken:
            return False
        return True

    def rotate(self, token: bytes) -> bytes:
        """The same text under the first key. Raises `WrongMasterKey`."""
        try:
            return MultiFernet(self._fernets).rotate(token)
        except InvalidToken:
            raise WrongMasterKey from None

    def begin_rotation(self, new_key: str | None) -> "MasterKeys":
        """The keys to re-encrypt with: a new first key, unless one is waiting already.

        A configured key is changed by its owner, who puts the new one first; then `new_key` must
        be absent. An interrupted rotation of the file goes on. Raises `MasterKeyIsConfigured`,
        `BadMasterKey`, `FileForbidden`.
        """
        if self._configured:
            if new_key is not None:
                raise MasterKeyIsConfigured(variable=VARIABLE)
            return self
        unfinished = len(self._filed) > 1
        if new_key is None and unfinished:
            return self
        new = parse_master_keys(new_key or new_master_key(), "NEW_KEY")[:1]
        self._file.write(tuple(dict.fromkeys([*new, *self._filed])))
        return MasterKeys((), self._file)

    def finish_rotation(self) -> "MasterKeys":
        """Forget the file's older keys; every ciphertext is under the first key by now.

        Raises `FileForbidden`.
        """
        if self._configured:
            self._file.remove()
        else:
            self._file.write(self._filed[:1])
        return MasterKeys(self._configured, self._file)


def new_master_key() -> str:
    """A random master key: 32 bytes as 44 characters of url-safe base64."""
    return Fernet.generate_key().decode()


class RootSecret:
    """The server's own random secret; what is derived from it differs by label (HKDF)."""

    def __init__(self, text: str) -> None:
        self._root = base64.urlsafe_b64decode(text)
        self._pepper = self._derive("api-key digest")

    @staticmethod
    def new_text() -> str:
        """A new secret as it is stored (encrypted)."""
        return base64.urlsafe_b64encode(secrets.token_bytes(ROOT_BYTES)).decode()

    def digest(self, key: str) -> str:
        """What an API key is looked up by: HMAC-SHA256 in hex, useless without this secret."""
        return hmac.digest(self._pepper, _bytes(key), "sha256").hex()

    def sign(self, purpose: str, message: str) -> str:
        """HMAC-SHA256 of `message` in url-safe base64; each purpose has its own key."""
        mac = hmac.digest(self._derive(f"signature for {purpose}"), _bytes(message), "sha256")
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()

    def _derive(self, label: str) -> bytes:
        info = f"genserve {label}".encode()
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(self._root)


def same_text(one: str, other: str) -> bool:
    """Compare two secrets in a time that does not tell where they differ."""
    return hmac.compare_digest(_bytes(one), _bytes(other))


def _bytes(text: str) -> bytes:
    # A header may hold anything: a lone surrogate is a wrong key, not an error of ours.
    return text.encode("utf-8", "surrogatepass")
