"""The README's scripts and commands, run as a reader would, on the fake family."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import FAKE, REPOSITORY, environment
from tests.cli.serving import Serve, serve

SETTINGS = {
    **FAKE,
    "models": {"flux1-dev": {"family": "fake", "multiple_of": 8, "modes": ["text2img", "img2img"]}},
}
PNG = b"\x89PNG"
needs_tools = pytest.mark.skipif(
    shutil.which("jq") is None or shutil.which("curl") is None,
    reason="the examples use curl and jq, which this machine does not have",
)


def run(server: Serve, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=server.folder,
        env=environment(GENSERVE_URL=server.url, **variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


def example(name: str) -> str:
    return str(REPOSITORY / "docs/examples" / name)


@needs_tools
def test_the_batch_script_writes_a_picture_for_each_prompt(tmp_path):
    with serve(tmp_path, SETTINGS) as server:
        done = run(server, example("batch.sh"))
    assert done.returncode == 0, done.stderr
    files = done.stdout.split()
    assert len(files) == 3
    assert all((tmp_path / file).read_bytes().startswith(PNG) for file in files)


@needs_tools
def test_the_watching_script_fetches_the_picture_or_says_why_there_is_none(tmp_path):
    with serve(tmp_path, SETTINGS) as server:
        done = run(server, example("watch.sh"))
        assert done.returncode == 0, done.stderr
        assert "status: completed" in done.stdout
        assert (tmp_path / "output.png").read_bytes().startswith(PNG)
        refused = run(server, example("watch.sh"), API_KEY="a-wrong-key")
        assert refused.returncode != 0


@needs_tools
def test_the_commands_of_the_readme(tmp_path):
    """Every block of the chapter that shows the API, in order, in one shell."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    chapter = text.partition("## The API by example")[2].partition("### A batch script")[0]
    blocks = re.findall(r"^```bash\n(.*?)^```", chapter, re.M | re.S)
    assert len(blocks) == 5
    with serve(tmp_path, SETTINGS) as server:
        done = run(server, "\n".join(blocks).replace("http://localhost:12411", server.url))
    assert done.returncode == 0, done.stderr
    for name in ("cat.png", "green.png", "star.png"):
        assert Path(tmp_path / name).read_bytes().startswith(PNG)
    assert "event: finished" in done.stdout
