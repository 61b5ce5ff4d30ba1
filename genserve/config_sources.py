"""Where the configuration comes from, and what is refused on the way.

Precedence: command line > GENSERVE_… environment > .env > config.yaml > defaults. Nested settings
are written with two underscores, as GENSERVE_SERVER__PORT=8000. This module alone reads the
environment. Every problem is a one-line `ConfigError` that names the setting.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml
from dotenv import dotenv_values
from pydantic import BaseModel, ValidationError
from pydantic_settings import InitSettingsSource, PydanticBaseSettingsSource

from genserve.config import DEFAULT_API_KEY, Config, DeclaredKey
from genserve.errors import ConfigError

PREFIX = "GENSERVE_"
ALIASES = {
    "API_KEYS_ENCRYPTION_KEY": "GENSERVE_KEYS__ENCRYPTION_KEY",
    "GENSERVE_SECRET_KEY": "GENSERVE_KEYS__ENCRYPTION_KEY",
}
"""The names that the users' documents use for settings of ours. Beside them stand
`API_KEY_n="key:name:permissions"` and `DEFAULT_API_KEY`, which declare keys."""
HUB = "https://huggingface.co"
NOT_SETTINGS = {
    "GENSERVE_CONFIG",  # which config.yaml
    "GENSERVE_API_KEY",  # the key that the command line calls a running server with
    "GENSERVE_URL",  # where the command line finds a running server
    "GENSERVE_TORCH_INDEX",  # start_optimized.sh: where the CPU build of torch comes from
    "GENSERVE_PYTHON",  # start_optimized.sh: which Python
}


def load(
    config_file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    env_file: Path = Path(".env"),
) -> Config:
    """Read the whole configuration.

    `overrides` are nested settings from the command line, as {"server": {"port": 1}}; `environ`
    replaces the process environment (for tests). Raises `ConfigError`.
    """
    sources = _read(config_file, environ, env_file)
    values = {setting: found.value for setting, found in sources.settings.items()}
    config = _validated(overrides or {}, _nested(values), sources.content)
    declared = [
        key.model_copy(update={"variable": f"keys.declared[{number}]"})
        for number, key in enumerate(config.keys.declared)
    ]
    declared += [_declared_by(name, value) for name, value in _key_variables(sources.variables)]
    keys = config.keys.model_copy(update={"declared": tuple(declared)})
    return Config(**{name: getattr(config, name) for name in Config.model_fields} | {"keys": keys})


def origins(
    config_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    env_file: Path = Path(".env"),
) -> dict[str, str]:
    """Where each setting that is not a default comes from: "server.port" → variable or file.

    Settings of the command line are not known here. Raises `ConfigError`.
    """
    sources = _read(config_file, environ, env_file)
    found = dict.fromkeys(_places(sources.content), str(sources.file))
    for setting, variable in sources.settings.items():
        found[setting[len(PREFIX) :].lower().replace("__", ".")] = variable.origin
    return found


def inherited_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What worker processes inherit: all but our settings, keys and the hub's token.

    They need none of these: weights come from the models folder.

    `environ` replaces the process environment (for tests).
    """
    ours = re.compile(rf"{PREFIX}.*|API_KEY_\d+|DEFAULT_API_KEY|HF_TOKEN|{'|'.join(ALIASES)}")
    environ = os.environ if environ is None else environ
    return {name: value for name, value in environ.items() if not ours.fullmatch(name)}


@dataclass(frozen=True, slots=True)
class HubSettings:
    """How Hugging Face's hub is reached, by the variables that its own tools read too.

    `endpoint` is the hub or a mirror of it. `token` belongs to a user who may read gated models.
    """

    endpoint: str = HUB
    token: str | None = field(default=None, repr=False)
    offline: bool = False


def hub_settings(
    environ: Mapping[str, str] | None = None, env_file: Path = Path(".env")
) -> HubSettings:
    """HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE, from the environment or .env.

    `environ` replaces the process environment (for tests). Raises `ConfigError`.
    """
    environ = os.environ if environ is None else environ
    given = {name: value for name, value in environ.items() if value}
    variables = {**_read_dotenv(env_file), **given}
    return HubSettings(
        endpoint=(variables.get("HF_ENDPOINT") or HUB).rstrip("/"),
        token=variables.get("HF_TOKEN", "").strip() or None,
        offline=variables.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"},
    )


def _places(content: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from _places(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class _Sources:
    """What was found: all variables, those of them that are settings, and config.yaml."""

    variables: dict[str, str]
    settings: dict[str, _Variable]
    content: dict[str, Any]
    file: Path


def _read(config_file: Path | None, environ: Mapping[str, str] | None, env_file: Path) -> _Sources:
    environ = os.environ if environ is None else environ
    dotenv = _read_dotenv(env_file)
    variables = {name: value for name, value in {**dotenv, **environ}.items() if value}
    settings = {**_settings(dotenv, f" in {env_file}"), **_settings(environ, "")}
    named = config_file or _path(variables.get("GENSERVE_CONFIG"))
    file = named or Path("config.yaml")
    return _Sources(variables, settings, _read_yaml(file, required=named is not None), file)


def _validated(*layers: Mapping[str, Any]) -> Config:
    """The layers, those that win first, merged setting by setting and checked."""

    class Layered(Config):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: Any, *args: Any, **kwargs: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(InitSettingsSource(settings_cls, dict(layer)) for layer in layers)

    try:
        return Layered()
    except ValidationError as error:
        raise ConfigError(problem=_first_problem(error)) from None


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _read_dotenv(path: Path) -> dict[str, str]:
    try:
        found = dotenv_values(path)
    except (OSError, UnicodeDecodeError):
        raise ConfigError(problem=f"{path} cannot be read: it must be UTF-8 text") from None
    return {name: value for name, value in found.items() if value is not None}


def _read_yaml(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise ConfigError(problem=f"there is no configuration file {path}") from None
        return {}
    except (OSError, UnicodeDecodeError):
        raise ConfigError(problem=f"{path} cannot be read: it must be UTF-8 text") from None
    except yaml.YAMLError as error:
        raise ConfigError(problem=f"{path} is not YAML: {_yaml_problem(error)}") from None
    if not isinstance(content, dict | None):
        raise ConfigError(problem=f"{path} must hold settings, as `server:` and below it `port: 1`")
    for name in content or {}:
        if name not in Config.model_fields:
            raise ConfigError(problem=f"{name} is not a setting; config.yaml lists them all")
    # A section whose settings are all commented out is empty, not wrong.
    return {name: value for name, value in (content or {}).items() if value is not None}


def _yaml_problem(error: yaml.YAMLError) -> str:
    """What and where, without the line itself: it may hold a secret."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    return "it holds characters that YAML does not allow"


def _settings(variables: Mapping[str, str], place: str) -> dict[str, _Variable]:
    """The variables of one source that are settings, under their own names in capitals.

    An empty one is as good as none, as `NAME=${OTHER:-}` in a compose file leaves it.
    """
    found: dict[str, _Variable] = {}
    for name, value in variables.items():
        setting = ALIASES.get(name, name).upper()
        if not setting.startswith(PREFIX) or setting in NOT_SETTINGS:
            continue
        if not _is_setting(Config, setting[len(PREFIX) :].lower().split("__")):
            raise ConfigError(problem=f"{name} is not a setting; config.yaml lists them all")
        if not value:
            continue
        first = found.setdefault(setting, _Variable(name, value, f"{name}{place}"))
        if first.value != value:
            raise ConfigError(problem=f"{first.name} and {name} mean the same setting and differ")
    return found


def _nested(settings: Mapping[str, str]) -> dict[str, Any]:
    """Variables as nested settings; what looks like a list or mapping is read as JSON."""
    nested: dict[str, Any] = {}
    for name in sorted(settings, key=len):  # a whole section first, then what it is refined by
        *outer, last = name[len(PREFIX) :].lower().split("__")
        place = nested
        for part in outer:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(problem=f"{name} is inside {part}, which is not a mapping")
            place = inner
        place[last] = _parsed(settings[name])
    return nested


def _parsed(value: str) -> Any:
    if not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value  # a text that begins like a list, as "[::1]"; where a list is needed, refused


def _is_setting(model: type[BaseModel], path: list[str]) -> bool:
    field = model.model_fields.get(path[0])
    if field is None:
        return False
    inner = field.annotation
    if len(path) == 1:
        return True
    if isinstance(inner, type) and issubclass(inner, BaseModel):
        return _is_setting(inner, path[1:])
    return dict in {getattr(inner, "__origin__", None), *get_args(inner)}


def _key_variables(variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    numbered = [name for name in variables if re.fullmatch(r"API_KEY_\d+", name)]
    for name in sorted(numbered, key=lambda name: int(name.rpartition("_")[2])):
        yield name, variables[name]
    default = variables.get("DEFAULT_API_KEY", DEFAULT_API_KEY)
    if default != DEFAULT_API_KEY:
        yield "DEFAULT_API_KEY", default


def _declared_by(variable: str, value: str) -> DeclaredKey:
    """`key:name:permissions`, or for DEFAULT_API_KEY the key alone, which then may do all."""
    if variable == "DEFAULT_API_KEY":
        parts = {"key": value, "name": "default", "permissions": ["all"]}
    else:
        key, _, rest = value.partition(":")
        name, _, permissions = rest.partition(":")
        parts = {
            "key": key,
            "name": name,
            "permissions": [word.strip() for word in permissions.split(",") if word.strip()],
        }
    try:
        return DeclaredKey.model_validate({**parts, "variable": variable})
    except ValidationError as error:
        form = "a key" if variable == "DEFAULT_API_KEY" else '"key:name:permissions"'
        raise ConfigError(problem=f"{variable} must be {form}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    """The first problem as "server.port: what is wrong", without the value (it may be secret)."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{place} is not a setting; config.yaml lists them all"
    if first["type"] == "tuple_type":
        return f'{place} must be a list; in a variable, a list is JSON, as ["a", "b"]'
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"
