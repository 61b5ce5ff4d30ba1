"""A model or LoRA that cannot be fetched, put in place or taken away. Of commands only."""

from typing import ClassVar

from genserve.errors.startup import CommandFailed, StartupError

# Wrong usage


class BadModelName(StartupError):
    """What is to become a folder or file below `models_dir` or `loras_dir`."""

    code = "bad_model_name"
    names: ClassVar[tuple[str, ...]] = ("name",)


class InsecureAddress(StartupError):
    """Plain http to another machine."""

    code = "insecure_address"
    names: ClassVar[tuple[str, ...]] = ("address",)


# What is to be fetched


class NoSource(CommandFailed):
    """The configuration does not say where the model's weights come from."""

    code = "no_source"
    names: ClassVar[tuple[str, ...]] = ("model",)


class UnknownRepository(CommandFailed):
    """`where` is a repository with its revision."""

    code = "unknown_repository"
    names: ClassVar[tuple[str, ...]] = ("where", "endpoint")


class GatedRepository(CommandFailed):
    """Its licence must be accepted first; `command` is what to run then."""

    code = "gated_repository"
    names: ClassVar[tuple[str, ...]] = ("repository", "page", "tokens", "command")


class TokenRefused(CommandFailed):
    code = "hub_token_refused"
    names: ClassVar[tuple[str, ...]] = ("repository", "page", "tokens")


class HubOffline(CommandFailed):
    code = "hub_offline"
    names: ClassVar[tuple[str, ...]] = ("what",)


class PickleRefused(CommandFailed):
    """`files` may run code, and there is nothing to load instead."""

    code = "pickle_refused"
    names: ClassVar[tuple[str, ...]] = ("where", "files")


class NothingToLoad(CommandFailed):
    code = "nothing_to_load"
    names: ClassVar[tuple[str, ...]] = ("where", "problem")


# Fetching it


class DownloadFailed(CommandFailed):
    code = "download_failed"
    names: ClassVar[tuple[str, ...]] = ("what", "problem")


class WrongChecksum(CommandFailed):
    """The file was deleted again."""

    code = "wrong_checksum"
    names: ClassVar[tuple[str, ...]] = ("file", "expected", "found")


class NotEnoughDisk(CommandFailed):
    """`needed` and `free` with their units."""

    code = "not_enough_disk"
    names: ClassVar[tuple[str, ...]] = ("folder", "needed", "free")


class PullInProgress(CommandFailed):
    code = "pull_in_progress"
    names: ClassVar[tuple[str, ...]] = ("name",)


# Putting it in place, and taking it away


class AlreadyInstalled(CommandFailed):
    code = "already_installed"
    names: ClassVar[tuple[str, ...]] = ("path",)


class UnusableDownload(CommandFailed):
    """All of it came, and it is nothing that can be loaded."""

    code = "unusable_download"
    names: ClassVar[tuple[str, ...]] = ("name", "problem")


class NotRemovable(CommandFailed):
    code = "not_removable"
    names: ClassVar[tuple[str, ...]] = ("path", "problem")
