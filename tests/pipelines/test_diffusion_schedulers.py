"""Stable Diffusion's noise schedulers, walked with a network that is always right.

A network that knows the picture tells the exact noise at every level. Whatever the method, wherever
it begins and however its levels are spaced, the walk must then end at that picture. It does not
where a method begins in the middle with the weights of a later step, or ends a level too early.
"""

import inspect
import math
from typing import Any

import pytest
import torch
from diffusers import LMSDiscreteScheduler, PNDMScheduler

from genserve.domain.samplers import CANONICAL, SIGMAS, WITHOUT_SIGMAS
from genserve.pipelines import schedulers
from genserve.pipelines.schedulers import diffusion_scheduler

TRAINED = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "clip_sample": False,
}
LEFT_BY_MODEL = 0.12
"""Noise that remains by design where a schedule ends at the first trained level, not at zero."""
EXACT = set(CANONICAL) - {
    "ddpm",
    "dpm2_a",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "euler_a",
    "lcm",
}
"""Methods that add no noise on their way."""
STEPS = [(1, 1), (2, 2), (5, 5), (20, 20), (2, 1), (5, 1), (5, 3), (20, 7), (20, 19), (60, 30)]


BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
KEPT = torch.cumprod(1 - BETAS, 0)
LOG_SIGMAS: list[float] = (((1 - KEPT) / KEPT).log() / 2).tolist()


def noise_at(time: float) -> float:
    """Sigma of a trained timestep, between two of them by k-diffusion's interpolation."""
    low = math.floor(time)
    one, other = LOG_SIGMAS[low], LOG_SIGMAS[min(low + 1, 999)]
    return math.exp(one + (time - low) * (other - one))


def walked(scheduler: Any, steps: int, made: int) -> tuple[float, float]:
    """How far from the picture the walk of the last `made` steps ends, and how far at worst the
    noise in the sample was from what the timestep says there is (0.1: a tenth too much or too
    little)."""
    chance = torch.Generator().manual_seed(0)
    picture, noise = (torch.randn(1, 4, 4, 4, generator=chance) for _ in range(2))
    scheduler.set_timesteps(steps)
    first = (steps - made) * scheduler.order
    times = scheduler.timesteps[first:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    if made == steps:
        sample = noise * scheduler.init_noise_sigma
    else:
        sample = scheduler.add_noise(picture, noise, times[:1])
    takes = inspect.signature(scheduler.step).parameters
    more = {"generator": chance} if "generator" in takes else {}
    worst = 0.0
    for time in times:
        seen = scheduler.scale_model_input(sample, time).double()
        sigma = noise_at(float(time))
        kept = 1 / math.sqrt(sigma**2 + 1)
        exact = (seen - kept * picture.double()) / (kept * sigma)
        if made < steps:  # a whole walk begins at noise alone, which no level quite is
            worst = max(worst, abs(float(exact.norm() / noise.norm()) - 1))
        sample = scheduler.step(exact.float(), time, sample, return_dict=False, **more)[0]
    return float((sample - picture).abs().max()), worst


@pytest.mark.parametrize("sigmas", [None, *SIGMAS])
@pytest.mark.parametrize("name", CANONICAL)
def test_every_walk_ends_at_the_picture(name: str, sigmas: str | None):
    if sigmas is not None and name in WITHOUT_SIGMAS:
        with pytest.raises(KeyError):
            diffusion_scheduler(name, TRAINED, steps=5, sigmas=sigmas)
        return
    for steps, made in STEPS:
        whole = made == steps
        scheduler = diffusion_scheduler(name, TRAINED, steps=steps, sigmas=sigmas, whole=whole)
        distance, worst = walked(scheduler, steps, made)
        assert distance < LEFT_BY_MODEL, (steps, made)
        assert worst < (0.02 if name in EXACT and sigmas is None else 0.5), (steps, made)


@pytest.mark.parametrize(
    ("ours", "library"), [("AnywhereLMS", LMSDiscreteScheduler), ("AnywherePNDM", PNDMScheduler)]
)
def test_the_librarys_own_go_astray_from_the_middle(ours: str, library: Any):
    """If this fails, diffusers has mended them, and our classes may go."""
    settings = {k: v for k, v in TRAINED.items() if k in library._get_init_keys(library)}
    _, ours_worst = walked(getattr(schedulers, ours)(**settings), 20, 8)
    _, worst = walked(library(**settings), 20, 8)
    assert ours_worst < 0.02 < 0.3 < worst


def test_named_levels_span_all_that_was_trained():
    for sigmas in SIGMAS:
        scheduler = diffusion_scheduler("euler", TRAINED, steps=8, sigmas=sigmas)
        scheduler.set_timesteps(8)
        assert float(scheduler.sigmas[0]) == pytest.approx(noise_at(999), rel=1e-3)
        assert float(scheduler.sigmas[-2]) == pytest.approx(noise_at(0), rel=1e-2)
        assert len(set(scheduler.sigmas.tolist())) == 9
    spacings = []
    for other in (None, *SIGMAS):
        scheduler = diffusion_scheduler("dpmpp_2m", TRAINED, steps=8, sigmas=other)
        scheduler.set_timesteps(8)
        spacings.append(tuple(scheduler.sigmas.tolist()))
    assert len(set(spacings)) == 4


def test_few_steps_begin_at_noise_alone():
    """SDXL's own spacing would begin its only step where hardly any noise is left."""
    own = TRAINED | {"timestep_spacing": "leading"}
    for steps, first in ((1, 999), (4, 999), (20, 951)):
        scheduler = diffusion_scheduler("euler", own, steps=steps)
        scheduler.set_timesteps(steps)
        assert float(scheduler.timesteps[0]) == first


def test_what_was_trained_is_kept():
    own = TRAINED | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    for name in CANONICAL:
        config = diffusion_scheduler(name, own, steps=20).config
        assert config.prediction_type == "v_prediction"
        assert config.beta_end == 0.012
        assert config.get("rescale_betas_zero_snr", True)
        assert config.get("clip_sample", False) is False


def test_a_models_own_karras_levels_are_its_own_way_and_can_be_exchanged():
    own = TRAINED | {"use_karras_sigmas": True}
    assert diffusion_scheduler("euler", own, steps=20).config.use_karras_sigmas
    other = diffusion_scheduler("euler", own, steps=20, sigmas="exponential").config
    assert other.use_exponential_sigmas
    assert not other.use_karras_sigmas


def test_an_lcm_may_take_more_steps_than_it_was_distilled_from():
    scheduler = diffusion_scheduler("lcm", TRAINED, steps=80)
    scheduler.set_timesteps(80)
    assert len(scheduler.timesteps) == 80


@pytest.mark.parametrize("name", CANONICAL)
def test_what_one_picture_does_with_a_scheduler_the_next_does_not_see(name: str):
    used = diffusion_scheduler(name, TRAINED, steps=4)
    steps_before = used.num_inference_steps
    used.set_timesteps(4)
    takes = inspect.signature(used.step).parameters
    more = {"generator": torch.Generator().manual_seed(0)} if "generator" in takes else {}
    sample = torch.ones(1, 4, 2, 2)
    for time in used.timesteps[:2]:  # and is cancelled then
        seen = used.scale_model_input(sample, time)
        sample = used.step(seen / 2, time, sample, return_dict=False, **more)[0]
    fresh = diffusion_scheduler(name, TRAINED, steps=4)
    assert fresh is not used
    assert fresh.num_inference_steps == steps_before != 4
    assert getattr(fresh, "_step_index", None) is None
