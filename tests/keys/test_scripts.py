"""The two scripts of the API document, run as its readers run them."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from genserve.config import DEFAULT_API_KEY, Config
from genserve.domain.caller import Permission
from genserve.store.secrets import MasterKeys, new_master_key, parse_master_keys
from tests.keys.conftest import House

SCRIPTS = Path(__file__).parents[2] / "scripts"
PASSWORD = "correct horse battery staple"


def run(
    name: str, *arguments: str, typed: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in the test's working folder, with these variables and no others of ours."""
    ours = ("GENSERVE_", "API_KEY", "DEFAULT_API_KEY")
    environ = {n: value for n, value in os.environ.items() if not n.startswith(ours)}
    return subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPTS / name), *arguments],
        input=typed,
        capture_output=True,
        text=True,
        env={**environ, **variables},
        check=False,
    )


def made(result: subprocess.CompletedProcess[str]) -> str:
    """The key in the printed line, as a shell would read it."""
    assert result.returncode == 0, result.stderr
    export, assignment = shlex.split(result.stdout)
    name, _, key = assignment.partition("=")
    assert (export, name) == ("export", "API_KEYS_ENCRYPTION_KEY")
    assert len(key) == 44
    assert parse_master_keys(key, name) == (key,)
    return key


def test_a_random_key():
    one, other = (made(run("generate_encryption_key.py", "--random")) for _ in range(2))
    assert one != other


def test_the_menu_makes_random_keys_too():
    assert len(made(run("generate_encryption_key.py", typed="1\n"))) == 44
    for typed in ("", "4\n"):
        result = run("generate_encryption_key.py", typed=typed)
        assert result.returncode == 1
        assert result.stdout == ""
        assert "No key was made" in result.stderr


def test_a_password_always_gives_the_same_key():
    keys = [
        made(run("generate_encryption_key.py", "--password-stdin", typed=typed))
        for typed in (f"{PASSWORD}\n", f"{PASSWORD}\r\n", f"{PASSWORD}!")
    ]
    assert keys[0] == keys[1] == "r4KFLlqRMKMPSGbDuJ8Pvn214UekN5O-NhdCs2xj4-w="
    assert keys[2] != keys[0]


def test_a_short_password_is_refused():
    result = run("generate_encryption_key.py", "--password-stdin", typed="fifteen letters\n")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "16 characters" in result.stderr
    assert "fifteen" not in result.stderr


def test_from_the_default_key_only_when_it_is_a_secret(working_folder: Path):
    key = made(run("generate_encryption_key.py", "--from-default-key", DEFAULT_API_KEY=PASSWORD))
    assert key == made(run("generate_encryption_key.py", "--password-stdin", typed=PASSWORD))
    (working_folder / ".env").write_text(f"DEFAULT_API_KEY='{PASSWORD}'\n")
    assert made(run("generate_encryption_key.py", typed="3\n")) == key
    (working_folder / ".env").unlink()
    for variables, told in (
        ({}, "not set"),
        ({"DEFAULT_API_KEY": ""}, "not set"),
        ({"DEFAULT_API_KEY": DEFAULT_API_KEY}, "documented key"),
        ({"DEFAULT_API_KEY": "short"}, "16 characters"),
    ):
        result = run("generate_encryption_key.py", "--from-default-key", **variables)
        assert result.returncode == 1
        assert result.stdout == ""
        assert told in result.stderr


def check(house: House, **variables: str) -> tuple[int, list[str]]:
    """Run the check; its exit code and lines."""
    given = {"GENSERVE_DATA_DIR": str(house.config.data_dir), **variables}
    if house.url.startswith("postgresql"):
        given["GENSERVE_STORE__URL"] = house.url
    result = run("test_encryption.py", **given)
    assert result.stderr == ""
    return result.returncode, result.stdout.splitlines()


def failures(lines: list[str]) -> list[str]:
    assert all(line.startswith(("ok    ", "FAIL  ")) for line in lines)
    return [line for line in lines if line.startswith("FAIL")]


async def test_all_is_well_with_the_file(house: House):
    ring = await house.open()
    await ring.create("alice", [Permission.ALL])
    house.close()
    code, lines = check(house)
    assert (code, failures(lines)) == (0, [])
    assert any("all 2 stored secrets" in line for line in lines)
    assert sum("only the server's user" in line for line in lines) == 2


async def test_the_check_can_run_beside_the_server(local_house: House):
    ring = await local_house.open()
    key, _ = await ring.create("alice", [Permission.ALL])
    assert check(local_house)[0] == 0
    assert ring.resolve(key).name == "alice"


def test_before_the_first_start_nothing_is_made(data_dir: Path):
    house = House(f"sqlite:///{data_dir / 'genserve.db'}", Config(data_dir=data_dir))
    code, lines = check(house)
    assert (code, failures(lines)) == (0, [])
    assert list(data_dir.iterdir()) == []
    code, lines = check(house, API_KEYS_ENCRYPTION_KEY=new_master_key())
    assert code == 0
    assert list(data_dir.iterdir()) == []


async def test_a_wrong_key_is_found_out(local_house: House):
    ring = await local_house.open()
    await ring.create("alice", [Permission.ALL])
    (local_house.config.secrets_dir / "encryption_key").unlink()
    local_house.close()
    code, (missing,) = check(local_house)
    assert code == 1
    assert "set API_KEYS_ENCRYPTION_KEY" in missing
    code, lines = check(local_house, API_KEYS_ENCRYPTION_KEY=new_master_key())
    assert code == 1
    assert ["2 of 2 stored secrets" in line for line in failures(lines)] == [True]
    code, (short,) = check(local_house, API_KEYS_ENCRYPTION_KEY="too-short")
    assert code == 1
    assert "44 characters" in short
    code, (unknown,) = check(local_house, GENSERVE_NONSENSE="1")
    assert "GENSERVE_NONSENSE" in unknown


async def test_open_file_modes_are_found_out(local_house: House, working_folder: Path):
    await local_house.open()
    local_house.close()
    local_house.config.secrets_dir.chmod(0o755)
    (local_house.config.secrets_dir / "encryption_key").chmod(0o644)
    code, lines = check(local_house)
    assert code == 1
    assert [line.split("run ")[1].split()[:2] for line in failures(lines)] == [
        ["chmod", "700"],
        ["chmod", "600"],
    ]


async def test_a_rotation_is_followed(local_house: House):
    old, new = new_master_key(), new_master_key()
    local_house.configure(encryption_key=old)
    await local_house.open()
    local_house.close()
    code, lines = check(local_house, API_KEYS_ENCRYPTION_KEY=f"{new},{old}")
    assert code == 1
    assert ["rotate-master" in line for line in failures(lines)] == [True]
    local_house.configure(encryption_key=f"{new},{old}")
    await (await local_house.open()).rotate_master()
    local_house.close()
    code, lines = check(local_house, API_KEYS_ENCRYPTION_KEY=f"{new},{old}")
    assert code == 0
    assert any("no longer needed" in line for line in lines)


async def test_old_key_files_are_looked_at(local_house: House, data_dir: Path):
    content = json.dumps({"abc123def456": {"name": "a", "permissions": "all"}})
    key = new_master_key()
    masters = MasterKeys.open(key, data_dir / "none", ciphertext_exists=True)
    (data_dir / "api_keys.enc").write_bytes(masters.encrypt(content))
    code, lines = check(local_house, API_KEYS_ENCRYPTION_KEY=key)
    assert code == 0
    assert any("imports its 1 keys" in line for line in lines)
    code, lines = check(local_house, API_KEYS_ENCRYPTION_KEY=new_master_key())
    assert code == 1
    assert "cannot be decrypted" in failures(lines)[0]
