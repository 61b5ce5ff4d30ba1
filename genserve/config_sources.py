"""Where the configuration comes from, and what is refused on the way.

Precedence: command line > GENSERVE_… environment > .env > config.yaml > defaults. Nested settings
are written with two underscores, as GENSERVE_SERVER__PORT=8000. This module alone reads the
environment. Every problem is a one-line `ConfigError` that names the setting.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from dotenv import dotenv_values
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from genserve.config import DEFAULT_API_KEY, Config, DeclaredKey
from genserve.errors import ConfigError

PREFIX = "GENSERVE_"
ALIASES = {
    "API_KEYS_ENCRYPTION_KEY": "GENSERVE_KEYS__ENCRYPTION_KEY",
    "GENSERVE_SECRET_KEY": "GENSERVE_KEYS__ENCRYPTION_KEY",
}
"""The names that the users' documents use for settings of ours. Beside them stand
`API_KEY_n="key:name:permissions"` and `DEFAULT_API_KEY`, which declare keys."""
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
    environ = os.environ if environ is None else environ
    dotenv = {k: v for k, v in dotenv_values(env_file).items() if v is not None}
    named = config_file or (
        Path(environ["GENSERVE_CONFIG"]) if "GENSERVE_CONFIG" in environ else None
    )
    content = _read_yaml(named or Path("config.yaml"), required=named is not None)
    variables = {**dotenv, **environ}
    settings = _settings({**_aliased(dotenv), **_aliased(environ)})
    _refuse_unknown(settings)
    declared = [
        *_declared_in_file(content),
        *(_declared_by(name, variables[name]) for name in _key_variables(variables)),
    ]
    overridden = _merged(dict(overrides or {}), {"keys": {"declared": declared}})
    return _validated(overridden, settings, content)


def _validated(
    overrides: dict[str, Any], settings: dict[str, str], content: dict[str, Any]
) -> Config:
    class Sourced(Config):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (
                init_settings,
                _Variables(settings_cls, settings),
                _Content(settings_cls, content),
            )

    try:
        return Sourced(**overrides)
    except ValidationError as error:
        raise ConfigError(problem=_first_problem(error)) from None
    except ValueError as error:  # a list or mapping in a variable that is not JSON
        raise ConfigError(problem=f"{error}; lists and mappings are written as JSON") from None


class _Variables(EnvSettingsSource):
    """GENSERVE_… variables, from .env and the environment, already merged."""

    def __init__(self, settings_cls: type[BaseSettings], variables: dict[str, str]) -> None:
        self._variables = {name.lower(): value for name, value in variables.items()}
        super().__init__(settings_cls, env_prefix=PREFIX, env_nested_delimiter="__")

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._variables


class _Content(PydanticBaseSettingsSource):
    """What config.yaml says."""

    def __init__(self, settings_cls: type[BaseSettings], content: dict[str, Any]) -> None:
        super().__init__(settings_cls)
        self._content = content

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._content.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._content


def _read_yaml(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise ConfigError(problem=f"there is no configuration file {path}") from None
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        first_line = " ".join(str(error).split())
        raise ConfigError(problem=f"{path} cannot be read: {first_line}") from None
    if not isinstance(content, dict | None):
        raise ConfigError(problem=f"{path} must hold settings, as `server:` and below it `port: 1`")
    return content or {}


def _aliased(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables under their own names; an alias never hides the name it stands for."""
    own = {ALIASES[name]: value for name, value in variables.items() if name in ALIASES}
    own.update({name: value for name, value in variables.items() if name not in ALIASES})
    return own


def _settings(variables: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in variables.items()
        if name.upper().startswith(PREFIX) and name not in NOT_SETTINGS
    }


def _refuse_unknown(settings: Mapping[str, str]) -> None:
    for name in settings:
        path = name[len(PREFIX) :].lower().split("__")
        if not _is_setting(Config, path):
            raise ConfigError(problem=f"{name} is not a setting; config.yaml lists them all")


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


def _key_variables(variables: Mapping[str, str]) -> Iterator[str]:
    numbered = [name for name in variables if re.fullmatch(r"API_KEY_\d+", name)]
    yield from sorted(numbered, key=lambda name: int(name.rpartition("_")[2]))
    if variables.get("DEFAULT_API_KEY", DEFAULT_API_KEY) != DEFAULT_API_KEY:
        yield "DEFAULT_API_KEY"


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
        raise ConfigError(
            problem=f'{variable} must be "key:name:permissions": {_first_problem(error)}'
        ) from None


def _declared_in_file(content: Mapping[str, Any]) -> list[DeclaredKey]:
    keys = content.get("keys")
    entries = keys.get("declared") if isinstance(keys, dict) else None
    try:
        checked = TypeAdapter(list[DeclaredKey]).validate_python(entries or [])
    except ValidationError as error:
        raise ConfigError(problem=f"keys.declared.{_first_problem(error)}") from None
    return [
        key.model_copy(update={"variable": f"keys.declared[{number}]"})
        for number, key in enumerate(checked)
    ]


def _merged(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in extra.items():
        inner = merged.get(name)
        merged[name] = _merged(inner, value) if isinstance(inner, dict) else value
    return merged


def _first_problem(error: ValidationError) -> str:
    """The first problem as "server.port: what is wrong", without the value (it may be secret)."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{place} is not a setting; config.yaml lists them all"
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"
