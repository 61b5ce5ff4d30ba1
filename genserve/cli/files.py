"""What a command says when the disk does not let it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from genserve.errors import CommandFailed


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """An `OSError` inside becomes a `CommandFailed` that names the file."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        where = f"{error.filename}: " if error.filename else ""
        raise CommandFailed(problem=f"{where}{reason}") from None
