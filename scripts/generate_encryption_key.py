#!/usr/bin/env python3
"""Make an encryption key for stored API keys (API_KEYS_ENCRYPTION_KEY).

    python scripts/generate_encryption_key.py                    a menu
    python scripts/generate_encryption_key.py --random           a random key: the best choice
    python scripts/generate_encryption_key.py --password-stdin   from a password on standard input
    python scripts/generate_encryption_key.py --from-default-key from DEFAULT_API_KEY

From a password the same key can be made again on any machine: nothing has to be kept but the
password. The price is that the salt is the same everywhere, so that one dictionary of guesses
serves against every installation. Therefore scrypt makes each guess cost 128 MiB and a good part
of a second, and a password needs 16 characters. A random key has no such weakness.
"""

import argparse
import base64
import getpass
import hashlib
import os
import sys
import unicodedata
from pathlib import Path

from dotenv import dotenv_values

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from genserve.config import DEFAULT_API_KEY
from genserve.store.secrets import VARIABLE, new_master_key

SALT = b"genserve encryption key, version 1"
SCRYPT = {"n": 2**17, "r": 8, "p": 1}
"""OWASP's password storage cheat sheet, 2024: the least for scrypt."""
MIN_LENGTH = 16


class Refused(Exception):
    """The key would be no secret; the text says why and what to do."""


def from_password(password: str) -> str:
    """The key that belongs to a password; the same every time."""
    text = unicodedata.normalize("NFKC", password)
    if len(text) < MIN_LENGTH:
        raise Refused(f"a password needs at least {MIN_LENGTH} characters; this has {len(text)}")
    raw = hashlib.scrypt(text.encode(), salt=SALT, maxmem=2**28, dklen=32, **SCRYPT)
    return base64.urlsafe_b64encode(raw).decode()


def from_default_key() -> str:
    """The key that belongs to DEFAULT_API_KEY, of the environment or .env."""
    key = {**dotenv_values(".env"), **os.environ}.get("DEFAULT_API_KEY")
    if not key:
        raise Refused("DEFAULT_API_KEY is not set: set it to a key of your own, or use --random")
    if key == DEFAULT_API_KEY:
        raise Refused(
            "DEFAULT_API_KEY is the documented key, which anyone can read: what it encrypts is "
            "not secret. Set a key of your own, or use --random"
        )
    return from_password(key)


def asked_for() -> str:
    """Ask which way, and go it."""
    print("1  a random key (recommended)", file=sys.stderr)
    print("2  from a password", file=sys.stderr)
    print("3  from DEFAULT_API_KEY", file=sys.stderr)
    print("Choose 1, 2 or 3: ", end="", file=sys.stderr, flush=True)
    match input().strip():
        case "1":
            return new_master_key()
        case "2":
            password = getpass.getpass("Password: ")
            if getpass.getpass("Once more: ") != password:
                raise Refused("the two passwords differ")
            return from_password(password)
        case "3":
            return from_default_key()
        case other:
            raise Refused(f"{other or 'nothing'} is not one of 1, 2 and 3")


def main() -> int:
    """Print the line for the start script; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make an encryption key for stored API keys.")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--random", action="store_true", help="a random key")
    ways.add_argument("--password-stdin", action="store_true", help="from standard input's line")
    ways.add_argument("--from-default-key", action="store_true", help="from DEFAULT_API_KEY")
    chosen = parser.parse_args()
    try:
        if chosen.random:
            key = new_master_key()
        elif chosen.password_stdin:
            key = from_password(sys.stdin.readline().rstrip("\r\n"))
        elif chosen.from_default_key:
            key = from_default_key()
        else:
            key = asked_for()
    except (Refused, EOFError) as refusal:
        print(f"No key was made: {refusal or 'nothing was chosen'}.", file=sys.stderr)
        return 1
    print(f'export {VARIABLE}="{key}"')
    print(
        "Put this line into your start script or .env, keep a copy in a safe place and out of "
        "version control: without it the stored API keys cannot be decrypted.",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
