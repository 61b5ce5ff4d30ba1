"""What draws: torch (asked for in a child process), the NVIDIA driver, the GPUs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pynvml

from genserve.cli.checks.finding import Finding, note, ok, problem
from genserve.workers.devices import installed_gpus

TORCH_TIMEOUT_S = 120
INSTALL = "run ./start_optimized.sh, which installs it"
ASK_TORCH = """
import json, torch
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "gpus": torch.cuda.device_count() if torch.cuda.is_available() else 0,
    "threads": torch.get_num_threads(),
}))
"""


def check() -> Iterator[Finding]:
    """torch, the driver and the GPUs."""
    gpus = installed_gpus()
    torch = _ask_torch()
    yield _torch(torch, wanted_gpus=len(gpus))
    yield _driver()
    if not gpus:
        yield note("gpus", "none; one CPU worker draws", "for real models, use an NVIDIA GPU")
    for gpu in gpus:
        yield ok(f"gpu {gpu.number}", f"{gpu.name}, {gpu.memory_bytes / 1024**3:.0f} GiB")


def _ask_torch() -> dict[str, Any] | None:
    try:
        answer = subprocess.run(
            [sys.executable, "-c", ASK_TORCH],
            capture_output=True,
            check=True,
            timeout=TORCH_TIMEOUT_S,
        )
        found: dict[str, Any] = json.loads(answer.stdout)
    except (subprocess.SubprocessError, ValueError):
        return None
    return found


def _torch(torch: dict[str, Any] | None, *, wanted_gpus: int) -> Finding:
    if torch is None:
        return problem("torch", "cannot be loaded", INSTALL)
    if torch["cuda"] is None:
        found = f"{torch['version']}, for the CPU"
        if wanted_gpus:
            return problem("torch", found, "delete .venv and run ./start_optimized.sh again")
        return ok("torch", found)
    found = f"{torch['version']}, CUDA {torch['cuda']}, {torch['gpus']} GPUs"
    if torch["gpus"] < wanted_gpus:
        return problem("torch", found, "its CUDA is newer than the driver: update the driver")
    return ok("torch", found)


def _driver() -> Finding:
    try:
        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        return note("driver", "no NVIDIA driver", "without a GPU nothing needs to be done")
    return ok("driver", f"NVIDIA {version}")
