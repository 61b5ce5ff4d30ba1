"""The exit codes of every command, as the README lists them."""

from enum import IntEnum

from genserve.errors import GenServeError, ServerUnreachable, StartupError


class Exit(IntEnum):
    """What a command's end says to the script that called it."""

    OK = 0
    FAILED = 1
    """It could not do what it was asked, or `doctor` found something to be done."""
    USAGE = 2
    """Wrong options or a wrong configuration; nothing was started."""
    UNREACHABLE = 3
    """No server answered."""
    INTERRUPTED = 130
    """Ctrl-C, as shells count it: 128 plus the signal's number."""


def exit_code(error: GenServeError) -> Exit:
    """The code that a command ends with after `error`."""
    if isinstance(error, StartupError):
        return Exit.USAGE
    if isinstance(error, ServerUnreachable):
        return Exit.UNREACHABLE
    return Exit.FAILED
