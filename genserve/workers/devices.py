"""Which devices there are, without torch: the server must not load it, NVML knows enough."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pynvml

from genserve.config import Pool

log = logging.getLogger(__name__)

RESIDENT_SHARE = {"cuda": 0.9, "cpu": 0.5}
"""Share of a device's memory that resident models may take; the rest is for working on pictures."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device with one worker. `name` is the worker's id; `number` counts from 0."""

    name: str
    kind: Literal["cuda", "cpu"]
    visible: str
    """What its process gets as CUDA_VISIBLE_DEVICES."""
    full_name: str
    memory_bytes: int
    threads: int
    """Compute threads of its process."""

    @property
    def resident_bytes(self) -> int:
        """What resident models may take together."""
        return int(self.memory_bytes * RESIDENT_SHARE[self.kind])

    def environment(self) -> dict[str, str]:
        """The variables that make its process see this device alone, and be polite on the CPU."""
        threads = str(self.threads)
        return {
            "CUDA_VISIBLE_DEVICES": self.visible,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # numbers as NVML and nvidia-smi count
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false",
            # Progress bars are noise in a log, and the libraries' warnings quote prompts.
            "TQDM_DISABLE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "DIFFUSERS_VERBOSITY": "error",
        }


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as NVML tells of it. `number` is its index in PCI order."""

    number: int
    uuid: str
    name: str
    memory_bytes: int


def installed_gpus() -> tuple[Gpu, ...]:
    """Every NVIDIA GPU of this machine; none when there is no driver.

    NVML stays open: opening it again for each look at the memory would take milliseconds.
    """
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return ()
    return tuple(_gpu(number) for number in range(count))


def _gpu(number: int) -> Gpu:
    """One GPU. A sick one is listed too: its process fails at start and says why."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    except pynvml.NVMLError as error:
        log.warning("the driver cannot tell about GPU %d: %s", number, error)
        return Gpu(number, str(number), f"GPU {number}", 0)
    try:
        memory_bytes = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError:  # memory that the GPU shares with the CPU is not told
        memory_bytes = _machine_memory_bytes()
    return Gpu(number, uuid, name, memory_bytes)


def choose(settings: Pool, environment: Mapping[str, str], gpus: Sequence[Gpu]) -> list[Device]:
    """The devices that the configuration asks for.

    `auto` means every GPU that CUDA_VISIBLE_DEVICES of the server leaves visible, or one CPU
    worker where there is none. A GPU that is asked for by number but not there becomes a device
    all the same: its process fails at start, and says so.
    """
    if isinstance(settings.devices, tuple):
        by_number = {gpu.number: gpu for gpu in gpus}
        chosen = [by_number.get(n, Gpu(n, str(n), f"GPU {n}", 0)) for n in settings.devices]
        return [_cuda(gpu, settings, len(chosen)) for gpu in chosen]
    if settings.devices == "auto":
        variable = environment.get("CUDA_VISIBLE_DEVICES")
        visible = _visible(gpus, variable)
        if visible:
            return [_cuda(gpu, settings, len(visible)) for gpu in visible]
        if gpus and variable:
            log.warning("CUDA_VISIBLE_DEVICES=%s names none of the GPUs: using the CPU", variable)
        return [_cpu(0, settings, 1)]
    count = int(settings.devices.removeprefix("cpu:"))
    return [_cpu(number, settings, count) for number in range(count)]


def _visible(gpus: Sequence[Gpu], variable: str | None) -> list[Gpu]:
    """The GPUs that the variable names by number or UUID (or its beginning); unset: all.

    A slice of a GPU (MIG) is known to CUDA by its UUID alone; NVML lists only whole ones.
    """
    if variable is None:
        return list(gpus)
    chosen: list[Gpu] = []
    for word in filter(None, (word.strip() for word in variable.split(","))):
        named = [gpu for gpu in gpus if word == str(gpu.number) or gpu.uuid.startswith(word)]
        if word.startswith("MIG-"):
            named = [Gpu(len(chosen), word, f"GPU slice {word[:12]}", _slice_bytes(word))]
        if not named:  # as CUDA does: nothing after an entry that is not there
            break
        chosen.append(named[0])
    return chosen


def _slice_bytes(uuid: str) -> int:
    """The memory of a MIG slice; 0 when the driver does not tell."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError:
        return 0


def _cuda(gpu: Gpu, settings: Pool, count: int) -> Device:
    return Device(
        name=f"gpu-{gpu.number}",
        kind="cuda",
        visible=gpu.uuid,
        full_name=gpu.name,
        memory_bytes=gpu.memory_bytes,
        threads=settings.threads or max(1, _cores() // count),
    )


def _cpu(number: int, settings: Pool, count: int) -> Device:
    return Device(
        name=f"cpu-{number}",
        kind="cpu",
        visible="",
        full_name=_cpu_name(),
        memory_bytes=_machine_memory_bytes() // count,
        threads=settings.threads or max(1, _cores() // count),
    )


def _machine_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def driver_version() -> str:
    """The NVIDIA driver's version; empty where there is none."""
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""


def _cores() -> int:
    """The cores this process may use: less than the machine's under taskset or cpuset."""
    return len(os.sched_getaffinity(0))


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "CPU"


def memory_used(device: Device, pid: int) -> int | None:
    """Bytes in use: of the whole GPU, or by the process of a CPU worker; None when unknown."""
    if device.kind == "cpu":
        try:
            pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
        except (OSError, IndexError):
            return None
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(device.visible)
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
    except pynvml.NVMLError:
        return None


def memory_free(device: Device) -> int:
    """Bytes that a new process can have of the device; its whole memory where nobody tells."""
    if device.kind == "cuda":
        used = memory_used(device, 0)
        return device.memory_bytes - (used or 0)
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return device.memory_bytes
