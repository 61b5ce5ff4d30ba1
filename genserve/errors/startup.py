"""A server or a command that cannot start or cannot go on."""

from typing import ClassVar

from genserve.errors.base import GenServeError

# The server or a command cannot start


class StartupError(GenServeError):
    """Printed as one line; the process ends with exit code 2."""

    code = "startup_error"
    names: ClassVar[tuple[str, ...]] = ("problem",)


class ConfigError(StartupError):
    """`problem` names the setting and what would be right."""

    code = "config_error"


class PortInUse(StartupError):
    code = "port_in_use"
    names: ClassVar[tuple[str, ...]] = ("host", "port")


class DataFolderInUse(StartupError):
    code = "data_folder_in_use"
    names: ClassVar[tuple[str, ...]] = ("folder",)


class DatabaseInUse(StartupError):
    code = "database_in_use"
    names: ClassVar[tuple[str, ...]] = ("database",)


class WrongMasterKey(StartupError):
    code = "wrong_master_key"
    names: ClassVar[tuple[str, ...]] = ()


class BadMasterKey(StartupError):
    code = "bad_master_key"
    names: ClassVar[tuple[str, ...]] = ("variable", "length")


class MissingMasterKey(StartupError):
    code = "missing_master_key"
    names: ClassVar[tuple[str, ...]] = ("variable",)


class LookupSecretLost(StartupError):
    """Keys are stored, but not the secret that their digests were made with."""

    code = "lookup_secret_lost"
    names: ClassVar[tuple[str, ...]] = ()


class FileForbidden(StartupError):
    """The file's permissions keep the server from reading or replacing it."""

    code = "file_forbidden"
    names: ClassVar[tuple[str, ...]] = ("file",)


class CannotDecryptFile(StartupError):
    """An encrypted key file of an earlier version that the encryption key does not open."""

    code = "cannot_decrypt_file"
    names: ClassVar[tuple[str, ...]] = ("file",)


class BadKeyFile(StartupError):
    """`problem` names the entry by its number, never by its key."""

    code = "bad_key_file"
    names: ClassVar[tuple[str, ...]] = ("file", "problem")


class UnsafeBinding(StartupError):
    code = "unsafe_binding"
    names: ClassVar[tuple[str, ...]] = ("host",)


# A command cannot do what it was asked


class CommandFailed(GenServeError):
    """Printed as one line; the process ends with exit code 1."""

    code = "command_failed"
    names: ClassVar[tuple[str, ...]] = ("problem",)


class NotEnoughDeviceMemory(CommandFailed):
    """`needed` and `free` with their units; `fitting` are models that are small enough."""

    code = "not_enough_device_memory"
    names: ClassVar[tuple[str, ...]] = ("model", "device", "needed", "free", "fitting")


class ServerUnreachable(CommandFailed):
    """Exit code 3."""

    code = "server_unreachable"
    names: ClassVar[tuple[str, ...]] = ("url",)
