"""Noise schedules: what steps and strength mean, and that Heun walks the model's own levels."""

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from genserve.pipelines.schedulers import flow_scheduler, noise_levels


@given(st.integers(1, 100), st.floats(0, 1))
def test_levels_fall_from_one_and_strength_leaves_out_the_first(steps: int, strength: float):
    levels = noise_levels(steps, strength)
    assert levels == sorted(levels, reverse=True)
    assert 0 < levels[-1] <= levels[0] <= 1
    assert len(noise_levels(steps, 1.0)) == steps
    if steps * strength >= 1:
        assert levels == noise_levels(steps)[-len(levels) :]
        assert len(levels) - steps * strength < 1
    else:
        (only,) = levels
        assert strength <= only <= max(strength, 0.02)


@given(st.integers(1, 100), st.floats(0, 1), st.floats(0, 1))
def test_more_strength_never_begins_nearer_to_the_picture(steps: int, one: float, other: float):
    less, more = sorted((one, other))
    assert noise_levels(steps, less)[0] <= noise_levels(steps, more)[0] + 1e-9


@pytest.mark.parametrize(
    ("steps", "strength", "levels"),
    [
        (1, 0.0, [0.02]),
        (1, 0.3, [0.3]),
        (4, 0.05, [0.05]),
        (4, 0.25, [0.25]),
        (4, 0.3, [0.5, 0.25]),
        (100, 0.0, [0.01]),
    ],
)
def test_less_than_a_step_begins_where_the_strength_says(
    steps: int, strength: float, levels: list[float]
):
    assert noise_levels(steps, strength) == levels


def walked(scheduler: Any, levels: Any, velocity: Any, start: Any) -> Any:
    scheduler.set_timesteps(sigmas=levels, mu=0.8)
    scheduler.set_begin_index(0)
    sample = start
    for time in scheduler.timesteps:
        sample = scheduler.step(velocity(sample, time / 1000), time, sample, return_dict=False)[0]
    return sample


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_both_reach_the_end_of_a_straight_path(shift: bool, strength: float):
    own = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=shift)
    levels = noise_levels(8, strength)
    velocity = torch.full((4,), 2.0)
    ends = []
    for name in ("euler", "heun"):
        scheduler = flow_scheduler(name, own)
        start = torch.zeros(4)
        ends.append(walked(scheduler, levels, lambda sample, time: velocity, start))
        assert scheduler.sigmas[-1] == 0
        travelled = float(scheduler.sigmas[0])
        torch.testing.assert_close(ends[-1], -velocity * travelled)
    torch.testing.assert_close(*ends)


def test_heun_is_nearer_on_a_bent_path():
    own = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    exact = torch.exp(torch.tensor([-1.0]))  # dx/dt = x from t = 1 to 0
    errors = {
        name: float(
            (
                walked(
                    flow_scheduler(name, own),
                    noise_levels(10),
                    lambda sample, time: sample,
                    torch.ones(1),
                )
                - exact
            ).abs()
        )
        for name in ("euler", "heun")
    }
    assert errors["heun"] < errors["euler"] / 2


def test_heun_walks_the_levels_that_euler_makes():
    own = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    euler, heun = flow_scheduler("euler", own), flow_scheduler("heun", own)
    for scheduler in (euler, heun):
        scheduler.set_timesteps(sigmas=noise_levels(5), mu=1.1)
    assert list(dict.fromkeys(heun.sigmas.tolist())) == euler.sigmas.tolist()
    assert len(heun.timesteps) == 2 * 5 - 1


def test_a_scheduler_of_another_kind_is_not_known():
    with pytest.raises(KeyError):
        flow_scheduler("ddim", FlowMatchEulerDiscreteScheduler())
