"""What an API key looks like and what it is called: pure functions over the key's text.

An issued key is `gs_`, 43 random characters and 6 check characters, 52 in all. The prefix lets
secret scanners find a leaked key; the check (GitHub's idea for its tokens, 2021) tells a mistyped
key from an unknown one without looking anything up.
"""

import re
import secrets
import string
import zlib

PREFIX = "gs_"
RANDOM_BYTES = 32
"""256 bits, written as 43 characters of url-safe base64."""
CHECK_LENGTH = 6
"""62**6 > 2**32: enough base62 digits for any CRC32."""
NAMED_BY_ENDS = 24
"""From this length on, 12 shown characters leave at least as many unknown."""
ALIAS_PREFIX = "k_"

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ISSUED_FORM = re.compile(r"gs_[A-Za-z0-9_-]{43}[0-9A-Za-z]{6}")


def new_key() -> str:
    """A new random key of the issued form."""
    body = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    return body + check_of(body)


def check_of(body: str) -> str:
    """The check characters for prefix and random part: CRC32 in base62, padded with zeros."""
    rest = zlib.crc32(body.encode("ascii"))
    characters = ""
    for _ in range(CHECK_LENGTH):
        rest, place = divmod(rest, len(_BASE62))
        characters = _BASE62[place] + characters
    return characters


def is_mistyped(key: str) -> bool:
    """Whether a key has the issued form but a check that does not fit: nobody can hold it."""
    if not _ISSUED_FORM.fullmatch(key):
        return False
    return check_of(key[:-CHECK_LENGTH]) != key[-CHECK_LENGTH:]


def alias_id(digest: str) -> str:
    """`k_` and the first 8 hex digits of the key's digest."""
    return ALIAS_PREFIX + digest[:8]


def key_id(key: str, digest: str) -> str:
    """How the key is called in lists and logs; a short key would be given away by its ends."""
    return f"{key[:8]}-{key[-4:]}" if len(key) >= NAMED_BY_ENDS else alias_id(digest)
