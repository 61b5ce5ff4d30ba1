"""The most memory that a task took at once, as the process that drew it knows it.

On a GPU: what torch's allocator had given out, from `begin` on; what it keeps in reserve and the
driver's own share come on top. On a CPU: the process's resident memory since its start, which Linux
knows and nobody can begin anew.
"""

from pathlib import Path

from genserve.pipelines.base import DeviceKind

_STATUS = Path("/proc/self/status")


def begin(device: DeviceKind) -> None:
    """From here on the peak counts."""
    if device == "cuda":
        import torch  # only where a GPU's process has it already

        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: DeviceKind) -> int | None:
    """The peak since `begin`; None where the system does not tell."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    told = next((line for line in lines if line.startswith("VmHWM:")), None)
    return None if told is None else int(told.split()[1]) * 1024
