"""`genserve bench --synthetic` on a real GPU, full-size. Skipped where NVML finds none."""

import json
from pathlib import Path

import pytest

from genserve.workers.devices import installed_gpus
from tests.cli.command import genserve

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not installed_gpus(), reason="there is no NVIDIA GPU"),
]
SD15_MIB = 2034
"""Its weights in 16 bits: 1.066 thousand million parameters."""


def test_stable_diffusion_of_full_size(tmp_path: Path):
    gpu = str(installed_gpus()[0].number)
    asked = ["--synthetic", "sd15", "--device", gpu, "--steps", "10", "--runs", "2", "--json"]
    done = genserve(tmp_path, "bench", *asked)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["machine"]["kind"] == "cuda"
    [measured] = report["benchmarks"]
    assert measured["done"] == "text2img, 512x512, 10 steps"
    figures = {figure["name"]: figure for figure in measured["figures"]}
    assert figures["weights, counted"]["genserve"] == pytest.approx(SD15_MIB, abs=2)
    for side in ("genserve", "diffusers"):
        assert all(figure[side] > 0 for figure in figures.values())
        # The weights and what drawing takes, and not another side's weights beside them.
        assert SD15_MIB < figures["peak memory, drawing"][side] < 3 * SD15_MIB
    assert list(tmp_path.iterdir()) == []
