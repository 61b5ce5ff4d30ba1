"""What every worker of a pool needs and none owns."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from genserve.config import Pool
from genserve.domain.pool import PoolEvent
from genserve.workers.channel import ChildSettings
from genserve.workers.deadlines import StepTimes
from genserve.workers.devices import Device
from genserve.workers.messages import MAX_LINE_BYTES
from genserve.workers.process import ChildProcess


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The pool's settings, and how its processes are started."""

    settings: Pool
    command: Sequence[str]
    environment: dict[str, str]
    families: tuple[str, ...]
    run_folder: Path
    step_times: StepTimes
    emit: Callable[[PoolEvent], None]

    async def start_child(
        self, device: Device, *, restarted: bool, on_output: Callable[[str], None]
    ) -> ChildProcess:
        """Start a process on the device. Raises `OSError`."""

        def argument(fd: int) -> str:
            return ChildSettings(
                worker=device.name,
                fd=fd,
                parent_pid=os.getpid(),
                device=device.kind,
                device_name=device.full_name,
                threads=device.threads,
                memory_bytes=device.resident_bytes,
                lora_cache_bytes=self.settings.lora_cache_mib * 2**20,
                lora_device_bytes=int(self.settings.lora_gpu_gib * 2**30),
                families=self.families,
                run_folder=self.run_folder,
                restarted=restarted,
            ).model_dump_json()

        return await ChildProcess.start(
            self.command,
            argument,
            {**self.environment, **device.environment()},
            on_output=on_output,
            limit_bytes=MAX_LINE_BYTES,
        )
