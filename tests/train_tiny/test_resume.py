"""A stage that was interrupted goes on exactly as if it had not been."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from train_tiny.byte_pairs import learn_merges
from train_tiny.checkpoint import (
    StageJob,
    load_checkpoint,
    run_stage,
    step_seed,
    training_time,
    write_atomically,
)
from train_tiny.scenes import BUCKETS
from train_tiny.vae import training_batch


def _job(folder: Path, losses: list[float]) -> StageJob:
    torch.manual_seed(0)
    module = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.05)

    def loss_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step_seed(0, "test", step))
        batch = torch.randn(8, 4, generator=generator)
        loss: Tensor = (module(batch) - batch.flip(1)).square().mean()
        losses.append(loss.item())
        return loss

    return StageJob("test", folder, module, (optimizer,), loss_at, steps=12, ema_decay=0.9)


def test_resume_gives_the_losses_of_an_uninterrupted_run(tmp_path: Path) -> None:
    whole: list[float] = []
    uninterrupted = _job(tmp_path / "whole", whole)
    run_stage(uninterrupted)
    parts: list[float] = []
    run_stage(_job(tmp_path / "parts", parts), stop_at=5)
    resumed = _job(tmp_path / "parts", parts)
    run_stage(resumed)
    assert parts == whole
    for name, value in uninterrupted.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name])


def test_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    job = _job(tmp_path, [])
    run_stage(job, stop_at=3)
    # What a kill in the middle of writing leaves behind.
    (tmp_path / "test.pt.part").write_bytes(b"half a checkpoint")
    again = _job(tmp_path, [])
    assert load_checkpoint(again)
    assert again.step == 3


def test_time_is_counted_over_every_run(tmp_path: Path) -> None:
    run_stage(_job(tmp_path, []), stop_at=3)
    path = _job(tmp_path, []).checkpoint
    state = torch.load(path, weights_only=True)
    assert state["seconds"] > 0
    write_atomically(path, state | {"seconds": 600.0, "place": "7 CPU threads"})
    run_stage(_job(tmp_path, []))
    here = torch.get_num_threads()
    on = "1 CPU thread" if here == 1 else f"{here} CPU threads"
    assert training_time([path]) == {"training": {"minutes": 10, "on": on}}
    assert training_time([path, path])["training"]["minutes"] == 20


def test_time_of_an_older_checkpoint_is_not_known(tmp_path: Path) -> None:
    run_stage(_job(tmp_path, []), stop_at=3)
    path = _job(tmp_path, []).checkpoint
    state = torch.load(path, weights_only=True)
    write_atomically(path, {k: v for k, v in state.items() if k not in ("seconds", "place")})
    run_stage(_job(tmp_path, []))
    assert training_time([path]) == {}


def test_next_batch_depends_on_seed_and_step_alone() -> None:
    first, _ = training_batch(seed=0, step=41, whole=True)
    training_batch(seed=0, step=42, whole=True)
    again, _ = training_batch(seed=0, step=41, whole=True)
    other, _ = training_batch(seed=1, step=41, whole=False)
    assert torch.equal(first, again)
    assert (first.shape[3], first.shape[2]) in BUCKETS.values()
    assert first.shape != other.shape


def test_merges_are_learnt_in_a_fixed_order() -> None:
    words = ["cat", "cat", "car", "hat"]
    assert learn_merges(words, 3) == [("a", "t</w>"), ("c", "at</w>"), ("a", "r</w>")]
    assert learn_merges(reversed(words), 3) == learn_merges(words, 3)
