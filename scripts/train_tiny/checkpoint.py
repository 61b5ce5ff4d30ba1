"""One training loop for every stage: progress bar, moving average, checkpoints, resume.

The loop holds no random state between steps: each step seeds everything it draws from (seed,
stage, step), so a run that was killed and resumed sees exactly the data and noise that an
uninterrupted one does. A checkpoint is written beside its place and renamed onto it, so that a
kill at any moment leaves either the old one or the new one.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

_WARMUP = 0.04
_DECAY_FROM = 0.45
_FINAL_RATE = 0.01


def step_seed(*parts: object) -> int:
    """A 63-bit seed from e.g. (seed, stage, step), stable between Python processes."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def rate_at(progress: float) -> float:
    """Learning rate, as a share of its peak: linear warm-up, plateau, cosine decay."""
    if progress < _WARMUP:
        return max(progress / _WARMUP, 0.02)
    if progress < _DECAY_FROM:
        return 1.0
    share = (progress - _DECAY_FROM) / (1 - _DECAY_FROM)
    return _FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass
class StageJob:
    """What one stage trains. `loss_at(step)` must depend on the weights and the step alone."""

    name: str
    folder: Path
    module: nn.Module
    optimizers: tuple[torch.optim.Optimizer, ...]
    loss_at: Callable[[int], Tensor]
    steps: int
    ema_decay: float = 0.0
    save_every_seconds: float = 60.0
    snapshot_every: int = 0
    on_snapshot: Callable[[int], None] | None = None
    ema: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    last_loss: float = math.nan
    # Of all runs that trained it together, and where the last of them did.
    seconds: float = 0.0
    place: str = ""

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.pt"


def run_stage(job: StageJob, stop_at: int | None = None) -> None:
    """Trains `job` to its last step (or `stop_at`), from its checkpoint if there is one.

    Afterwards the module holds the averaged weights, if the job keeps an average.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in job.optimizers]
    load_checkpoint(job)
    last = min(job.steps, stop_at if stop_at is not None else job.steps)
    if job.step < last:
        job.place = _place_of(job.module)
    saved_at = time.monotonic()
    job.module.train()
    with tqdm(total=job.steps, initial=job.step, desc=job.name, mininterval=5) as bar:
        while job.step < last:
            _train_step(job, peaks)
            bar.update()
            if job.step % 25 == 0:
                bar.set_postfix(loss=f"{job.last_loss:.4f}", refresh=False)
            if time.monotonic() - saved_at > job.save_every_seconds:
                saved_at = _save_timed(job, saved_at)
            if job.on_snapshot and job.step < last and job.step % job.snapshot_every == 0:
                job.on_snapshot(job.step)
                job.module.train()
    _save_timed(job, saved_at)
    if job.ema and job.step >= job.steps:
        job.module.load_state_dict(job.ema, strict=False)
    job.module.eval()


def _place_of(module: nn.Module) -> str:
    kind = next(module.parameters()).device.type
    if kind != "cpu":
        return f"one {kind} device"
    threads = torch.get_num_threads()
    return "1 CPU thread" if threads == 1 else f"{threads} CPU threads"


def _save_timed(job: StageJob, since: float) -> float:
    """Saves with the time that passed; returns up to when it is counted."""
    now = time.monotonic()
    job.seconds += now - since
    save_checkpoint(job)
    return now


def _train_step(job: StageJob, peaks: list[list[float]]) -> None:
    for optimizer, rates in zip(job.optimizers, peaks, strict=True):
        for group, peak in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = peak * rate_at(job.step / job.steps)
        optimizer.zero_grad(set_to_none=True)
    loss = job.loss_at(job.step)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(job.module.parameters(), 1.0)
    for optimizer in job.optimizers:
        optimizer.step()
    job.step += 1
    value = loss.item()
    job.last_loss = value if math.isnan(job.last_loss) else 0.98 * job.last_loss + 0.02 * value
    if job.ema_decay:
        _update_average(job)


@torch.no_grad()
def _update_average(job: StageJob) -> None:
    """Moving average whose window grows at first, so that early weights are soon forgotten."""
    weights = {name: value for name, value in job.module.named_parameters() if value.requires_grad}
    if not job.ema:
        job.ema = {name: value.detach().clone() for name, value in weights.items()}
        return
    decay = min(job.ema_decay, (job.step + 1) / (job.step + 20))
    average = [job.ema[name] for name in weights]
    torch._foreach_lerp_(average, list(weights.values()), 1 - decay)


def save_checkpoint(job: StageJob) -> None:
    write_atomically(
        job.checkpoint,
        {
            "step": job.step,
            "module": job.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in job.optimizers],
            "ema": job.ema,
            "last_loss": job.last_loss,
            "rng": torch.get_rng_state(),
            "seconds": job.seconds,
            "place": job.place,
        },
    )


def load_checkpoint(job: StageJob) -> bool:
    if not job.checkpoint.exists():
        return False
    state = torch.load(job.checkpoint, map_location="cpu", weights_only=True)
    job.module.load_state_dict(state["module"])
    for optimizer, stored in zip(job.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(stored)
    device = next(job.module.parameters()).device
    job.ema = {name: value.to(device) for name, value in state["ema"].items()}
    job.step, job.last_loss = state["step"], state["last_loss"]
    # Older checkpoints did not count.
    job.seconds, job.place = state.get("seconds", math.nan), state.get("place", "")
    torch.set_rng_state(state["rng"])
    return True


def training_time(checkpoints: Iterable[Path]) -> dict[str, Any]:
    """`training` for `figures.json`: minutes, and on what; nothing if a stage's are not known."""
    seconds, places = 0.0, []
    for path in checkpoints:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        seconds += state.get("seconds", math.nan)
        places.append(state.get("place", ""))
    if not places or math.isnan(seconds):
        return {}
    on = " and ".join(dict.fromkeys(places))
    return {"training": {"minutes": round(seconds / 60), "on": on}}


def write_atomically(path: Path, value: Any) -> None:
    """`torch.save`, safe against a kill at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(path.suffix + ".part")
    with beside.open("wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
