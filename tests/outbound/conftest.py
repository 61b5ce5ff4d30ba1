"""Nothing of these tests may see this machine's own Hugging Face account."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def nobodys_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's library reads a token file; its place is read when the library is imported."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
