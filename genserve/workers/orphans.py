"""Keeps a child from outliving its parent, and two children from sharing one device.

Standard library only: called before anything heavy is imported.
"""

import ctypes
import fcntl
import os
import signal
import sys
import time
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""
LOCK_PATIENCE_S = 2.0
"""A predecessor that was just killed may need this long to let go of the device."""


class DeviceInUse(Exception):
    """Another process owns the device; `pid` is what it wrote down, or empty."""

    def __init__(self, pid: str) -> None:
        self.pid = pid
        super().__init__(pid)


def die_with(parent_pid: int) -> None:
    """Let the kernel kill this process when its parent dies, however that happens.

    The signal is bound to the parent's thread that started us (prctl(2)), which therefore must be
    one that lives as long as the server. A parent that died before the call shows as another ppid.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def leave_signals_to_parent() -> None:
    """Ctrl-C and a service manager's SIGTERM reach the whole group; only the parent drains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def hold_device(run_folder: Path, worker: str) -> IO[str]:
    """Lock the device for as long as the returned file is open. Raises `DeviceInUse`."""
    run_folder.mkdir(parents=True, exist_ok=True)
    file = (run_folder / f"{worker}.lock").open("a+", encoding="ascii")
    give_up_at = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > give_up_at:
                file.seek(0)
                holder = file.read(20).strip()
                file.close()
                raise DeviceInUse(holder) from None
            time.sleep(0.05)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
