"""`genserve doctor` looks and leaves no trace."""

from pathlib import Path

from genserve.cli.checks.finding import Verdict
from genserve.cli.checks.service import check
from genserve.config import Config
from tests.core.conftest import fake_config


def verdicts(config: Config) -> dict[str, Verdict]:
    return {found.subject: found.verdict for found in check(config, url="http://127.0.0.1:9")}


def test_an_empty_data_folder_is_fine_and_stays_empty(tmp_path: Path):
    config = fake_config(tmp_path)
    config.data_dir.mkdir()
    assert verdicts(config)["database"] is Verdict.OK
    assert list(config.data_dir.iterdir()) == []
