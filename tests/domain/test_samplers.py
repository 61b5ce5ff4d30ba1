"""One table of scheduler names: what people type in other tools means what it means there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genserve.domain.samplers import (
    A1111_NAMES,
    ALIASES,
    CANONICAL,
    SIGMAS,
    WITHOUT_SIGMAS,
    Sampler,
    canonical_scheduler,
    read_sampler,
)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("DPMSolverMultistepScheduler", "dpmpp_2m"),
        ("DDIMScheduler", "ddim"),
        ("EulerDiscreteScheduler", "euler"),
        ("EulerAncestralDiscreteScheduler", "euler_a"),
        ("PNDMScheduler", "pndm"),
        ("LMSDiscreteScheduler", "lms"),
        ("HeunDiscreteScheduler", "heun"),
        ("KDPM2DiscreteScheduler", "dpm2"),
        ("KDPM2AncestralDiscreteScheduler", "dpm2_a"),
    ],
)
def test_the_nine_of_the_document(name: str, canonical: str) -> None:
    assert read_sampler(name) == Sampler(canonical)
    assert read_sampler(name.removesuffix("Scheduler").lower()) == Sampler(canonical)


@pytest.mark.parametrize(
    ("name", "scheduler", "sigmas"),
    [
        ("DPM++ 2M", "dpmpp_2m", None),
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("DPM++ 2M SDE Exponential", "dpmpp_2m_sde", "exponential"),
        ("DPM++ SDE Karras", "dpmpp_sde", "karras"),
        ("Euler a", "euler_a", None),
        ("Euler A Karras", "euler_a", "karras"),
        ("LMS Karras", "lms", "karras"),
        ("DPM2 a Karras", "dpm2_a", "karras"),
        ("dpmpp_3m_sde_gpu", "dpmpp_3m_sde", None),
        ("dpm_2_ancestral", "dpm2_a", None),
        ("k_euler_ancestral", "euler_a", None),
        ("k_dpmpp_2m", "dpmpp_2m", None),
        ("uni_pc", "unipc", None),
        ("PLMS", "pndm", None),
        ("euler_beta", "euler", "beta"),
        ("FlowMatchEulerDiscreteScheduler", "euler", None),
        ("FlowMatchHeunDiscreteScheduler", "heun", None),
        ("  EULER  ", "euler", None),
    ],
)
def test_names_of_other_tools(name: str, scheduler: str, sigmas: str | None) -> None:
    read = read_sampler(name)
    assert (read.scheduler, read.sigmas) == (scheduler, sigmas)


@pytest.mark.parametrize("name", CANONICAL)
def test_a_canonical_name_is_its_own_and_has_one_for_pictures(name: str) -> None:
    assert canonical_scheduler(name) == name
    assert canonical_scheduler(A1111_NAMES[name]) == name


def test_no_alias_stands_for_two_schedulers() -> None:
    assert set(ALIASES.values()) == set(CANONICAL)
    assert set(CANONICAL) >= WITHOUT_SIGMAS


@pytest.mark.parametrize("name", ["karras", "nope", "DPM adaptive", "nope karras", ""])
def test_an_unknown_name_is_no_canonical_one(name: str) -> None:
    assert canonical_scheduler(name) not in CANONICAL


@given(st.text(max_size=40))
def test_no_name_raises(name: str) -> None:
    read = read_sampler(name)
    assert read.sigmas is None or read.sigmas in SIGMAS
    assert read_sampler(read.scheduler).scheduler == read.scheduler or read.sigmas
