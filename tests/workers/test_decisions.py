"""What a pool decides without any process: back-off, deadlines, devices, the pipe's text."""

import asyncio
import logging
import socket
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genserve.config import Pool
from genserve.config_sources import inherited_environment
from genserve.domain.model import ModelSpec
from genserve.domain.pool import Assignment, TaskFailed, TaskStopped
from genserve.domain.request import GenerationRequest
from genserve.workers import devices
from genserve.workers.channel import Channel, ParentGone
from genserve.workers.deadlines import Deadline, StepTimes
from genserve.workers.devices import Gpu
from genserve.workers.held import HeldTask
from genserve.workers.messages import TO_PARENT, Cancel, Run, Step, Stop, to_line
from genserve.workers.output import forward
from genserve.workers.process import describe_exit
from genserve.workers.restarts import HEALTHY_S, Restarts

GPUS = [Gpu(0, "GPU-aaaa", "H200", 10**11), Gpu(1, "GPU-bbbb", "H200", 10**11)]


def assignment(prompt: str = "p", time_limit_s: float = 5) -> Assignment:
    model = ModelSpec.model_validate({"id": "m", "family": "fake", "folder": "m"})
    return Assignment(
        task_id="t",
        attempt=2,
        token="token",
        epoch=1,
        request=GenerationRequest(model="m", prompt=prompt),
        model=model,
        time_limit_s=time_limit_s,
        output_folder="out",
    )


# Back-off


@given(st.lists(st.floats(0, HEALTHY_S, exclude_max=True), min_size=1, max_size=60))
def test_the_delay_doubles_up_to_its_limit(lives: list[float]):
    restarts = Restarts(0.1, 30)
    for number, lived_s in enumerate(lives):
        restarts.died(lived_s=lived_s, was_ready=True)
        assert restarts.delay_s == min(30, 0.1 * 2**number)
    assert not restarts.given_up


@pytest.mark.parametrize("healthy", ["long life", "finished task"])
def test_a_process_of_use_starts_the_delays_over(healthy: str):
    restarts = Restarts(0.1, 30)
    for _ in range(5):
        restarts.died(lived_s=0, was_ready=True)
    if healthy == "finished task":
        restarts.finished_task()
    restarts.died(lived_s=HEALTHY_S if healthy == "long life" else 0, was_ready=True)
    assert restarts.delay_s == 0.1


@given(st.lists(st.booleans(), max_size=30))
def test_only_failed_starts_in_a_row_are_given_up(ready: list[bool]):
    restarts = Restarts(0.1, 30)
    for was_ready in ready:
        restarts.died(lived_s=0, was_ready=was_ready)
    assert restarts.given_up == (len(ready) >= 3 and not any(ready[-3:]))
    restarts.asked_to_try()
    assert not restarts.given_up


# Deadlines


@given(st.lists(st.floats(0, 1000), max_size=20), st.floats(1, 60), st.floats(1.5, 20))
def test_a_step_may_take_a_multiple_of_the_slowest(seen: list[float], least: float, factor: float):
    times = StepTimes(min_timeout_s=least, factor=factor)
    for step_s in seen:
        times.saw("m", step_s)
    assert times.timeout_s("m") == max([least, *(factor * step_s for step_s in seen)])
    assert times.timeout_s("another") == least


async def test_a_deadline_tells_what_was_waited_for():
    told: list[str] = []
    deadline = Deadline(told.append)
    deadline.set(0.01, "this")
    deadline.set(0.02, "that")
    await asyncio.sleep(0.1)
    deadline.set(0.01, "nothing")
    deadline.clear()
    await asyncio.sleep(0.05)
    assert told == ["that took longer than 0.02 s"]


async def test_an_earlier_deadline_is_not_put_off():
    told: list[str] = []
    deadline = Deadline(told.append)
    deadline.set(0.01, "soon")
    deadline.at_most(60, "late")
    await asyncio.sleep(0.05)
    deadline.set(60, "late")
    deadline.at_most(0.01, "sooner")
    await asyncio.sleep(0.05)
    assert [text.split()[0] for text in told] == ["soon", "sooner"]
    deadline.clear()


# The end of a task that was in hand when the process died


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        (set(), "returned"),
        ({"acknowledged"}, "crashed"),
        ({"acknowledged", "returned"}, "returned"),
        ({"acknowledged", "cancelled"}, "cancelled"),
        ({"acknowledged", "timed_out"}, "timed out"),
        ({"acknowledged", "timed_out", "cancelled"}, "cancelled"),
        ({"acknowledged", "returned", "cancelled"}, "cancelled"),
        ({"cancelled"}, "cancelled"),
    ],
)
def test_how_a_lost_task_is_told(wishes: set[str], told: str):
    held = HeldTask(assignment(), "cpu-0")
    for wish in wishes:
        setattr(held, wish, True)
    match held.lost("it was killed by SIGKILL"):
        case TaskStopped() as stopped:
            assert told == ("returned" if stopped.returned else "cancelled")
        case TaskFailed() as failed if failed.crashed:
            assert told == "crashed"
            assert failed.retry
        case TaskFailed() as failed:
            assert told == "timed out"
            assert failed.error.code == "task_timeout"


# Devices


def names(setting: object, gpus: list[Gpu], **environment: str) -> list[str]:
    chosen = devices.choose(Pool.model_validate({"devices": setting}), environment, gpus)
    return [f"{device.name}={device.visible}" for device in chosen]


@pytest.mark.parametrize(
    ("setting", "gpus", "variable", "expected"),
    [
        ("auto", GPUS, None, ["gpu-0=GPU-aaaa", "gpu-1=GPU-bbbb"]),
        ("auto", [], None, ["cpu-0="]),
        ("auto", GPUS, "1", ["gpu-1=GPU-bbbb"]),
        ("auto", GPUS, "GPU-b,0", ["gpu-1=GPU-bbbb", "gpu-0=GPU-aaaa"]),
        ("auto", GPUS, "0,7,1", ["gpu-0=GPU-aaaa"]),
        ("auto", GPUS, "", ["cpu-0="]),
        ("auto", GPUS, "-1", ["cpu-0="]),
        ([1], GPUS, None, ["gpu-1=GPU-bbbb"]),
        ([1], GPUS, "", ["gpu-1=GPU-bbbb"]),
        ([5], GPUS, None, ["gpu-5=5"]),
        ("cpu:3", GPUS, None, ["cpu-0=", "cpu-1=", "cpu-2="]),
    ],
)
def test_which_devices_are_used(setting, gpus, variable, expected):
    environment = {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}
    assert names(setting, gpus, **environment) == expected


def test_a_process_sees_its_device_alone_and_shares_the_cores():
    settings = Pool.model_validate({"devices": "cpu:64"})
    device = devices.choose(settings, {}, [])[63]
    assert device.environment()["OMP_NUM_THREADS"] == "1"
    assert device.environment()["CUDA_VISIBLE_DEVICES"] == ""
    assert device.environment()["DIFFUSERS_DISABLE_REMOTE_CODE"] == "1"
    fixed = Pool.model_validate({"devices": "cpu:2", "threads": 5})
    assert devices.choose(fixed, {}, [])[0].environment()["OMP_NUM_THREADS"] == "5"


def test_processes_inherit_no_secrets():
    environ = {
        "PATH": "/bin",
        "API_KEY_1": "secret",
        "API_KEYS_ENCRYPTION_KEY": "secret",
        "DEFAULT_API_KEY": "secret",
        "GENSERVE_STORE__URL": "postgresql://user:secret@host/db",
        "GENSERVE_SECRET_KEY": "secret",
        "CUDA_VISIBLE_DEVICES": "1",
        "API_KEY_PROVIDER": "not ours",
    }
    assert inherited_environment(environ) == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "1",
        "API_KEY_PROVIDER": "not ours",
    }


# The pipe


@given(st.lists(st.sampled_from(["cancel", "stop", "run"]), max_size=8), st.data())
def test_the_child_reads_messages_however_they_are_cut(kinds: list[str], data: st.DataObject):
    messages = {
        "cancel": Cancel(task_id="t", attempt=1),
        "stop": Stop(),
        "run": Run(assignment=assignment('line\nbreaks, "quotes" and 猫')),
    }
    sent = [messages[kind] for kind in kinds]
    text = b"".join(to_line(message) for message in sent)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel, received = Channel(theirs), []
        cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12).map(sorted))
        for begin, end in pairwise([0, *cuts, len(text)]):
            ours.sendall(text[begin:end])
            while (message := channel.poll()) is not None:
                received.append(message)
        assert received == sent
        assert channel.poll() is None
        ours.close()
        with pytest.raises(ParentGone):
            channel.receive()
        with pytest.raises(ParentGone):
            channel.send(Stop())


def test_what_a_child_says_is_read_as_it_was_meant():
    step = Step(task_id="t", attempt=1, step=2, total=4)
    assert TO_PARENT.validate_json(to_line(step)) == step


# Words


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "it ended with exit code 0"),
        (-9, "it was killed by SIGKILL"),
        (-250, "it was killed by signal 250"),
    ],
)
def test_an_exit_is_told_in_words(code: int, words: str):
    assert describe_exit(code) == words


def test_output_keeps_its_level_and_says_whose_it_is(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG, logger="genserve.worker"):
        for line in ("WARNING child: hot", "a library prints", "  ", "ERROR a\x1eb"):
            forward(line, "gpu-0", "task-1")
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [("WARNING", "child: hot"), ("INFO", "a library prints"), ("ERROR", "a\nb")]
    whose = {(vars(record)["worker"], vars(record)["task_id"]) for record in caplog.records}
    assert whose == {("gpu-0", "task-1")}
