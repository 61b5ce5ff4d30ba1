"""Where settings come from: precedence, aliases, and what is refused and how."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from genserve.config import DEFAULT_API_KEY, Config
from genserve.config_sources import inherited_environment, load, origins
from genserve.errors import ConfigError

Load = Callable[..., Config]
MASTER = "A" * 43 + "="


@pytest.fixture
def loaded(tmp_path: Path) -> Load:
    """Loads from a config.yaml, .env and environment of the test's own."""

    def from_texts(
        yaml: str | None = None,
        dotenv: str | None = None,
        environ: dict[str, str] | None = None,
        overrides: dict[str, Any] | None = None,
    ) -> Config:
        file, env_file = tmp_path / "settings.yaml", tmp_path / ".env"
        file.write_text(yaml or "", encoding="utf-8")
        env_file.write_text(dotenv or "", encoding="utf-8")
        return load(file, overrides, environ or {}, env_file)

    return from_texts


def refused(loaded: Load, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as error:
        loaded(*args, **kwargs)
    text = error.value.detail("en")
    assert "\n" not in text
    return text


def test_command_line_beats_environment_beats_dotenv_beats_file_beats_default(loaded: Load):
    layers: list[dict[str, Any]] = [
        {},
        {"yaml": "server: {port: 2}"},
        {"dotenv": "GENSERVE_SERVER__PORT=3"},
        {"environ": {"GENSERVE_SERVER__PORT": "4"}},
        {"overrides": {"server": {"port": 5}}},
    ]
    given: dict[str, Any] = {}
    ports = []
    for layer in layers:
        given |= layer
        ports.append(loaded(**given).server.port)
    assert ports == [12411, 2, 3, 4, 5]


def test_layers_are_merged_setting_by_setting(loaded: Load):
    config = loaded(
        "server: {host: 10.0.0.1, port: 2}\nqueue: {window: 3}",
        "GENSERVE_SERVER__PORT=3",
        {"GENSERVE_SERVER": '{"drain_s": 7}'},
    )
    assert (config.server.host, config.server.port, config.server.drain_s) == ("10.0.0.1", 3, 7)
    assert config.queue.window == 3


def test_nothing_is_read_but_what_is_passed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GENSERVE_DATA_DIR", "/elsewhere")
    assert Config().data_dir == Path("data")


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENSERVE_SERVER__PORT", "7")
    (tmp_path / ".env").write_text("GENSERVE_CONFIG=other.yaml\n")
    (tmp_path / "other.yaml").write_text("queue: {window: 4}")
    config = load()
    assert (config.server.port, config.queue.window) == (7, 4)


def test_equal_sources_give_equal_configurations(loaded: Load):
    assert loaded("server: {port: 2}") == loaded("server: {port: 2}")


@pytest.mark.parametrize(
    "environ",
    [
        {"API_KEYS_ENCRYPTION_KEY": MASTER},
        {"GENSERVE_SECRET_KEY": MASTER},
        {"GENSERVE_KEYS__ENCRYPTION_KEY": MASTER},
        {"API_KEYS_ENCRYPTION_KEY": MASTER, "GENSERVE_SECRET_KEY": MASTER},
    ],
)
def test_every_name_of_the_encryption_key_works(loaded: Load, environ: dict[str, str]):
    assert loaded(environ=environ).keys.encryption_key == SecretStr(MASTER)


def test_an_alias_in_the_environment_beats_another_in_dotenv(loaded: Load):
    config = loaded(dotenv="GENSERVE_SECRET_KEY=old", environ={"API_KEYS_ENCRYPTION_KEY": "new"})
    assert config.keys.encryption_key == SecretStr("new")


def test_two_names_of_one_setting_must_not_differ(loaded: Load):
    text = refused(loaded, environ={"GENSERVE_SECRET_KEY": "a", "API_KEYS_ENCRYPTION_KEY": "b"})
    assert "GENSERVE_SECRET_KEY" in text
    assert "API_KEYS_ENCRYPTION_KEY" in text


def test_numbered_keys_are_declared_in_order(loaded: Load):
    environ = {
        "API_KEY_10": "xyz789ghi012:user:generation",
        "API_KEY_2": "abc123def456:developer:generation, readonly",
        "API_KEY_NAME": "not ours",
    }
    declared = loaded(environ=environ).keys.declared
    assert [key.variable for key in declared] == ["API_KEY_2", "API_KEY_10"]
    assert declared[0].key.get_secret_value() == "abc123def456"
    assert declared[0].name == "developer"
    assert declared[0].permissions == {"generation", "readonly"}


def test_the_environment_beats_dotenv_for_declared_keys_too(loaded: Load):
    (declared,) = loaded(
        dotenv="API_KEY_1=abc123def456:old:all", environ={"API_KEY_1": "abc123def456:new:all"}
    ).keys.declared
    assert declared.name == "new"


def test_keys_are_declared_in_the_file_too(loaded: Load):
    yaml = "keys: {declared: [{key: abc123def456, name: a, permissions: [all]}]}"
    declared = loaded(yaml, environ={"API_KEY_1": "xyz789ghi012:user:generation"}).keys.declared
    assert [key.variable for key in declared] == ["keys.declared[0]", "API_KEY_1"]


def test_a_list_of_keys_in_a_variable_replaces_that_of_the_file(loaded: Load):
    yaml = "keys: {declared: [{key: abc123def456, name: a, permissions: [all]}]}"
    listed = '[{"key": "from-variable", "name": "b", "permissions": ["all"]}]'
    declared = loaded(yaml, environ={"GENSERVE_KEYS__DECLARED": listed}).keys.declared
    assert [key.key.get_secret_value() for key in declared] == ["from-variable"]


def test_default_api_key_declares_a_key_unless_it_is_the_documented_one(loaded: Load):
    (own,) = loaded(environ={"DEFAULT_API_KEY": "a-key-of-my-own"}).keys.declared
    assert own.variable == "DEFAULT_API_KEY"
    assert own.permissions == {"all"}
    assert loaded(environ={"DEFAULT_API_KEY": DEFAULT_API_KEY}).keys.declared == ()


def test_empty_variables_are_as_good_as_none(loaded: Load):
    names = ["API_KEYS_ENCRYPTION_KEY", "API_KEY_1", "DEFAULT_API_KEY", "GENSERVE_SERVER__PORT"]
    assert loaded(environ=dict.fromkeys(names, "")) == loaded()


def test_an_empty_section_keeps_its_defaults(loaded: Load):
    assert loaded("server:\nkeys:\n") == loaded()


@pytest.mark.parametrize(
    ("yaml", "name"),
    [
        ("servr: {port: 1}", "servr"),
        ("server: {prot: 1}", "server.prot"),
        ("models: {a: {family: flux, defaults: {stepz: 1}}}", "models.a.defaults.stepz"),
        ("1: 2", "1"),
    ],
)
def test_an_unknown_setting_in_the_file_is_named(loaded: Load, yaml: str, name: str):
    assert f"{name} is not a setting" in refused(loaded, yaml)


@pytest.mark.parametrize(
    "name",
    [
        "GENSERVE_PORT",
        "GENSERVE_SERVER__PROT",
        "GENSERVE_SERVER__PORT__X",
        "GENSERVE_",
        "genserve_x",
    ],
)
def test_an_unknown_variable_is_named_wherever_it_stands(loaded: Load, name: str):
    assert f"{name} is not a setting" in refused(loaded, environ={name: "1"})
    assert f"{name} is not a setting" in refused(loaded, dotenv=f"{name}=1")
    assert f"{name} is not a setting" in refused(loaded, environ={name: ""})


def test_foreign_names_and_those_of_the_scripts_are_ignored(loaded: Load):
    foreign = {"PATH": "/bin", "DATABASE_URL": "x", "GENSERVE_URL": "x", "GENSERVE_API_KEY": "x"}
    assert loaded(environ=foreign, dotenv="AWS_REGION=x\nGENSERVE_PYTHON=y") == loaded()


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"GENSERVE_SERVER__PORT": "many"}, "server.port"),
        ({"GENSERVE_SERVER__PORT": "70000"}, "server.port"),
        ({"GENSERVE_SERVER__TRUSTED_PROXIES": "10.0.0.1"}, "server.trusted_proxies"),
        ({"GENSERVE_SERVER": "5"}, "server"),
        ({"GENSERVE_API__RATE_LIMIT": "100 a minute"}, "api.rate_limit"),
        ({"GENSERVE_POOL__DEVICES": "gpu"}, "pool.devices"),
        ({"GENSERVE_POOL__DEVICES": "[0, 0]"}, "pool.devices"),
        ({"GENSERVE_KEYS__DECLARED": '[{"key": "short"}]'}, "keys.declared.0.key"),
        ({"GENSERVE_KEYS": "[1]"}, "keys"),
        ({"API_KEY_1": "abc123def456"}, "API_KEY_1"),
        ({"API_KEY_1": "abc123def456:name:everything"}, "API_KEY_1"),
        ({"API_KEY_1": "short:name:all"}, "API_KEY_1"),
        ({"DEFAULT_API_KEY": "short"}, "DEFAULT_API_KEY"),
    ],
)
def test_a_wrong_value_is_named_but_not_repeated(loaded: Load, environ: dict[str, str], name: str):
    text = refused(loaded, environ=environ)
    assert text.startswith(name)
    assert "short" not in text


@pytest.mark.parametrize(
    ("text", "devices"), [("auto", "auto"), ("cpu:2", "cpu:2"), ("[0, 3]", (0, 3))]
)
def test_devices(loaded: Load, text: str, devices: object):
    assert loaded(f"pool: {{devices: {text}}}").pool.devices == devices
    assert loaded(environ={"GENSERVE_POOL__DEVICES": text}).pool.devices == devices


def test_text_that_begins_like_a_list_stays_text(loaded: Load):
    assert loaded(environ={"GENSERVE_SERVER__HOST": "[::1]"}).server.host == "[::1]"


def test_a_file_that_is_not_yaml_is_refused_without_its_secrets(loaded: Load):
    text = refused(loaded, "keys:\n  encryption_key: 'hidden\n  other: [")
    assert "line" in text
    assert "hidden" not in text


@pytest.mark.parametrize("yaml", ["- 1", "text", "server: 3"])
def test_a_file_of_another_shape_is_refused(loaded: Load, yaml: str):
    refused(loaded, yaml)


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    unreadable = tmp_path / "folder"
    unreadable.mkdir()
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for arguments in (
        {"config_file": tmp_path / "absent.yaml"},
        {"config_file": unreadable},
        {"config_file": binary},
        {"environ": {"GENSERVE_CONFIG": str(tmp_path / "absent.yaml")}},
        {"env_file": binary},
    ):
        given: dict[str, Any] = {"environ": {}, "env_file": tmp_path / ".env", **arguments}
        with pytest.raises(ConfigError, match=str(tmp_path)):
            load(**given)


def test_an_absent_config_yaml_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert load(environ={}) == Config()


def test_origins_name_the_variable_or_file(tmp_path: Path):
    file, env_file = tmp_path / "settings.yaml", tmp_path / ".env"
    file.write_text("server: {port: 1, host: 10.0.0.1}")
    env_file.write_text("GENSERVE_SERVER__PORT=2\nGENSERVE_QUEUE__WINDOW=3")
    found = origins(file, {"GENSERVE_QUEUE__WINDOW": "4", "GENSERVE_SECRET_KEY": "x"}, env_file)
    assert found == {
        "server.host": str(file),
        "server.port": f"GENSERVE_SERVER__PORT in {env_file}",
        "queue.window": "GENSERVE_QUEUE__WINDOW",
        "keys.encryption_key": "GENSERVE_SECRET_KEY",
    }


def test_secrets_do_not_show(loaded: Load):
    shown = repr(
        loaded(
            environ={
                "API_KEYS_ENCRYPTION_KEY": MASTER,
                "API_KEY_1": "abc123def456:developer:all",
                "GENSERVE_STORE__URL": "postgresql+psycopg://user:hidden@host/db",
            }
        )
    )
    assert not any(secret in shown for secret in (MASTER, "abc123def456", "hidden"))


def test_workers_inherit_no_secrets_of_ours():
    foreign = {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "0",
        "API_KEY_OTHER": "x",
        "MY_API_KEY_1": "x",
    }
    ours = dict.fromkeys(
        [
            "API_KEYS_ENCRYPTION_KEY",
            "GENSERVE_SECRET_KEY",
            "GENSERVE_STORE__URL",
            "API_KEY_1",
            "API_KEY_23",
            "DEFAULT_API_KEY",
        ],
        "secret",
    )
    assert inherited_environment({**foreign, **ours}) == foreign
