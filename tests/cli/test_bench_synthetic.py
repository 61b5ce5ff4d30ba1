"""`genserve bench --synthetic`, whole: what a GPU measures, on a CPU with small networks."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genserve.cli.bench.side import Drawn, Side
from genserve.cli.bench.side_by_side import Compared
from genserve.cli.bench.synthetic import Asked, _request
from genserve.config import Pool
from genserve.domain.request import GenerationRequest
from genserve.domain.task import Degraded, Result
from genserve.errors import CommandFailed, ConfigError
from genserve.pipelines import full_size
from genserve.workers.devices import choose
from tests.cli.command import environment, genserve, one_line

PATIENCE_S = 120
SMALL = ["--device", "cpu", "--shrink", "16", "--width", "64", "--height", "64"]
FIGURES = [
    "cold load",
    "first picture",
    "a picture, median of 1",
    "a picture of one step",
    "a step",
    "weights, counted",
    "peak memory, load and first picture",
    "peak memory, drawing",
]


def test_the_whole_command(tmp_path: Path):
    """With the model that needs pictures: through a worker's process, then by diffusers alone."""
    short = [*SMALL, "--steps", "3", "--runs", "1", "--json"]
    done = genserve(tmp_path, "bench", "--synthetic", "flux1-fill-dev", *short)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["machine"]["kind"] == "cpu"
    assert {"torch", "diffusers", "transformers"} == report["machine"]["software"].keys()
    [measured] = report["benchmarks"]
    assert (measured["benchmark"], measured["model"]) == ("synthetic", "flux1-fill-dev")
    assert measured["done"] == "fill, 64x64, 3 steps"
    assert any("shrunk by 16" in note for note in measured["notes"])
    figures = {figure.pop("name"): figure for figure in measured["figures"]}
    assert list(figures) == FIGURES
    for name, figure in figures.items():
        if name != "a step":  # a difference: on a busy machine noise may be larger
            assert figure["genserve"] > 0, name
            assert figure["diffusers"] > 0, name
            assert figure["ratio"] == pytest.approx(figure["genserve"] / figure["diffusers"])
    weights = figures["weights, counted"]["genserve"]
    assert 10 < weights < 100
    for side in ("genserve", "diffusers"):
        assert figures["peak memory, drawing"][side] > weights
        together = figures["a picture of one step"][side] + 2 * figures["a step"][side]
        assert together == pytest.approx(figures["a picture, median of 1"][side])
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_told_before_anything_is_drawn(tmp_path: Path):
    huge = [*SMALL[:4], "--width", "65536", "--height", "65536"]
    done = genserve(tmp_path, "bench", "--synthetic", "flux1-dev", *huge)
    assert done.returncode == 1
    said = one_line(done)
    assert "flux1-dev needs about 13.2 TB of cpu-0" in said
    assert "--width" in said
    assert "sd15" in said.partition("these fit:")[2]
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_it_and_leaves_nothing(tmp_path: Path):
    command = [sys.executable, "-m", "genserve", "bench", "--synthetic", "sd15", *SMALL]
    with subprocess.Popen(
        [*command, "--steps", "1000000"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As on a terminal: what a script starts in the background ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as bench:
        assert bench.stderr is not None
        assert "GenServe: the first picture" in bench.stderr.readline()
        assert mentioning(tmp_path) != []
        bench.send_signal(signal.SIGINT)
        printed, said = bench.communicate(timeout=PATIENCE_S)
    assert bench.returncode == 130
    assert (printed, said) == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert mentioning(tmp_path) == []


def mentioning(folder: Path) -> list[str]:
    """The command lines of living processes that name the folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder) in line:
            found.append(line)
    return found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--synthetic", "sd99"], "knows no sd99; it knows flux1-dev, "),
        (["--synthetic", "sd15", "queue"], "--synthetic goes alone, not with queue"),
        (["--synthetic", "sd15", "--size", "3"], "not with --size"),
        (["queue", "--steps", "3", "--device", "cpu"], "--steps, --device: only with --synthetic"),
        ([], "name a benchmark"),
        (["--synthetic", "sd15", "--device", "cuda"], "must be auto, cpu, or the number of a GPU"),
        (["--synthetic", "sd15", "--device", "99"], "there is no GPU 99"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_told(tmp_path: Path, arguments: list[str], said: str):
    done = genserve(tmp_path, "bench", *arguments)
    assert done.returncode == 2
    assert said in one_line(done)


def test_what_cannot_be_drawn_is_refused():
    for asked, said in (
        (Asked("flux1-dev", width=1000), "multiples of 16"),
        (Asked("sd15", height=514), "multiples of 8"),
        (Asked("sd15", shrink=3), "one of 1, 2, 4, 8, 16, 32"),
    ):
        with pytest.raises(ConfigError, match=said):
            _request(asked)


@pytest.mark.parametrize("name", full_size.names())
def test_every_model_has_something_it_is_usually_asked_for(name: str):
    request = _request(Asked(name))
    assert request.width == request.height == (512 if name == "sd15" else 1024)
    assert request.steps is not None
    assert request.steps > 1
    assert _request(Asked(name, steps=2, width=256)).width == 256


def test_the_issues_steps_are_the_defaults():
    steps = {name: _request(Asked(name)).steps for name in full_size.names()}
    expected = {"flux1-dev": 28, "flux1-fill-dev": 50, "sdxl": 30, "sd15": 30, "sd3.5-large": 30}
    assert expected.items() <= steps.items()


def drawn(took_s: float, *, load_s: float = 0.0, peak: int = 1, **stages_s: float) -> Drawn:
    result = Result(
        images=(),
        served_by="sdxl",
        native_width=64,
        native_height=64,
        load_s=load_s,
        stages_s=stages_s,
        peak_bytes=peak * 2**20,
        degraded=(Degraded(code="vae_tiling"),) if peak == 7 else (),
    )
    return Drawn(took_s, result)


def test_the_figures_are_what_was_timed(capsys: pytest.CaptureFixture[str]):
    ours = Side(
        first=drawn(12.0, load_s=5.0, peak=9),
        whole=[drawn(6.0, peak=7), drawn(4.0, peak=6), drawn(5.0)],
        short=[drawn(1.0), drawn(3.0), drawn(2.0)],
        steps=11,
    )
    theirs = Side(
        first=drawn(99.0, load_s=4.0, process=8.0),
        whole=[drawn(99.0, process=4.0)],
        short=[drawn(99.0, process=2.0)],
        steps=11,
        stage="process",
    )
    rows = compared(ours, theirs).rows()
    assert [(row.genserve, row.diffusers) for row in rows] == [
        (5.0, 4.0),
        (7.0, 8.0),
        (5.0, 4.0),
        (2.0, 2.0),
        (pytest.approx(0.3), pytest.approx(0.2)),
        (3.0, 3.0),
        (9.0, 1.0),
        (7.0, 1.0),
    ]
    compared(ours, theirs).show(as_json=False)
    printed = capsys.readouterr().out
    for part in ("GenServe", "diffusers", "1.250", "text2img, 1024x1024, 11 steps", "vae_tiling"):
        assert part in printed


def test_no_ratio_of_nothing():
    silent = Side(first=drawn(1.0), whole=[drawn(1.0)], short=[drawn(1.0)], steps=2)
    [step] = [row for row in compared(silent, silent).rows() if row.name == "a step"]
    assert step.genserve == 0
    assert step.ratio is None


def test_what_genserve_took_is_shown_though_diffusers_failed(capsys: pytest.CaptureFixture[str]):
    ours = Side(first=drawn(3.0), whole=[drawn(2.0)], short=[drawn(1.0)], steps=2)
    report = compared(ours, CommandFailed(problem="it ran out of memory"))
    assert [row.diffusers for row in report.rows()] == [None] * len(FIGURES)
    assert all(row.ratio is None for row in report.rows())
    report.show(as_json=False)
    assert "diffusers failed: it ran out of memory" in capsys.readouterr().out


def compared(ours: Side, theirs: Side | CommandFailed) -> Compared:
    [device] = choose(Pool(devices="cpu:1"), {}, ())
    request: dict[str, Any] = {"model": "sdxl", "prompt": "", "width": 1024, "height": 1024}
    asked = GenerationRequest(**request, steps=11)
    return Compared("sdxl", asked, device, ours, theirs, 3 * 2**20, shrink=1)
