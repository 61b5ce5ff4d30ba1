"""`genserve config check | show`, and how every command tells a wrong configuration."""

import json
import subprocess
import sys

import pytest

from genserve import __version__
from genserve.config import Config
from tests.cli.command import environment, genserve, one_line, write_config

SECRET = "a-very-secret-value-0123456789"


def test_a_valid_configuration(tmp_path):
    done = genserve(tmp_path, "config", "check")
    assert (done.returncode, done.stdout) == (0, "the configuration is valid\n")


@pytest.mark.parametrize(
    ("settings", "variables", "named"),
    [
        ({"server": {"prot": 1}}, {}, "server.prot"),
        ({"server": {"port": "many"}}, {}, "server.port"),
        ({}, {"GENSERVE_SERVER__PROT": "1"}, "GENSERVE_SERVER__PROT"),
        ({}, {"GENSERVE_FOO": "1"}, "GENSERVE_FOO"),
        ({}, {"API_KEY_3": "short"}, "API_KEY_3"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(tmp_path, settings, variables, named):
    write_config(tmp_path, settings)
    done = genserve(tmp_path, "config", "check", **variables)
    assert done.returncode == 2
    assert named in one_line(done)


@pytest.mark.parametrize("command", ["serve", "models list", "generate cat", "keys list", "doctor"])
def test_every_command_tells_it_in_the_same_way(tmp_path, command):
    done = genserve(tmp_path, *command.split(), GENSERVE_FOO="1")
    assert done.returncode == 2
    assert "GENSERVE_FOO" in one_line(done)


def test_a_missing_file_is_named(tmp_path):
    done = genserve(tmp_path, "config", "check", "--config", "nowhere.yaml")
    assert done.returncode == 2
    assert "nowhere.yaml" in one_line(done)


def test_a_wrong_option_is_a_usage_error(tmp_path):
    done = genserve(tmp_path, "serve", "--prot", "1")
    assert done.returncode == 2
    assert "--prot" in done.stderr


def test_show_says_where_values_come_from_and_hides_secrets(tmp_path):
    write_config(tmp_path, {"server": {"port": 8001}, "store": {"url": f"sqlite:///{SECRET}"}})
    (tmp_path / ".env").write_text(f'GENSERVE_LOG__LEVEL=debug\nAPI_KEY_1="{SECRET}:me:all"\n')
    done = genserve(
        tmp_path, "config", "show", "--json", GENSERVE_QUEUE__WINDOW="7", GENSERVE_SECRET_KEY=SECRET
    )
    assert done.returncode == 0, done.stderr
    shown = {row["setting"]: row for row in json.loads(done.stdout)}
    assert shown["server.port"]["value"] == 8001
    assert shown["server.port"]["from"] == "config.yaml"
    assert shown["server.host"]["from"] == "default"
    assert shown["queue.window"]["value"] == 7
    assert "GENSERVE_QUEUE__WINDOW" in shown["queue.window"]["from"]
    assert ".env" in shown["log.level"]["from"]
    assert "API_KEY_1" in shown["keys.declared[0].key"]["from"]
    assert shown["keys.declared[0].name"]["value"] == "me"
    assert SECRET not in done.stdout
    table = genserve(tmp_path, "config", "show", GENSERVE_SECRET_KEY=SECRET)
    assert "server.port" in table.stdout
    assert SECRET not in table.stdout


def test_show_lists_every_setting(tmp_path):
    done = genserve(tmp_path, "config", "show", "--json")
    sections = {row["setting"].partition(".")[0] for row in json.loads(done.stdout)}
    assert sections == set(Config.model_fields)


def test_version_and_help(tmp_path):
    assert genserve(tmp_path, "--version").stdout == f"genserve {__version__}\n"
    assert "serve" in genserve(tmp_path, "--help").stdout


def test_light_commands_import_nothing_heavy(tmp_path):
    code = (
        "import sys\n"
        "from genserve.cli.main import app\n"
        "app(['config', 'check'], standalone_mode=False)\n"
        "print([m for m in ('fastapi', 'sqlalchemy', 'torch', 'httpx2') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
