"""A whole runtime on the fake family: real database, real queue, real child processes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from genserve.config import Config, DeclaredKey
from genserve.core.runtime import Runtime
from genserve.domain.caller import Caller
from genserve.domain.request import GenerationRequest

OWNER_KEY = "key-of-an-ordinary-caller"
OTHER_KEY = "key-of-somebody-else-here"
ADMIN_KEY = "key-of-the-administrator-0"

Start = Callable[..., Awaitable[Runtime]]


def fake_config(folder: Path, **settings: Any) -> Config:
    """A configuration with one CPU worker and the fake family; `settings` replace sections."""
    keys = [
        DeclaredKey(
            key=key, name=name, permissions=frozenset({permission}), variable=f"API_KEY_{n}"
        )
        for n, (key, name, permission) in enumerate(
            [
                (OWNER_KEY, "owner", "generation"),
                (OTHER_KEY, "other", "generation"),
                (ADMIN_KEY, "admin", "all"),
            ],
            start=1,
        )
    ]
    fake = {"family": "fake", "multiple_of": 8, "modes": ["text2img", "img2img"]}
    return Config.model_validate(
        {
            "data_dir": folder / "data",
            "models_dir": folder / "models",
            "loras_dir": folder / "loras",
            "keys": {"declared": keys},
            "pool": {"devices": "cpu:1", "threads": 1},
            "models": {"fake": fake},
        }
        | settings
    )


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a runtime; what a test leaves running is stopped."""
    started: list[Runtime] = []

    async def _start(**settings: Any) -> Runtime:
        config = fake_config(tmp_path, **settings)
        runtime = await Runtime.start(config, reread=lambda: config)
        started.append(runtime)
        return runtime

    yield _start
    for runtime in started:
        await runtime.stop(drain_s=0)


def caller(runtime: Runtime, key: str = OWNER_KEY) -> Caller:
    """The caller that a declared key stands for."""
    return runtime.keys.resolve(key)


def asks(prompt: str = "a picture", **changes: Any) -> GenerationRequest:
    """A small request to the fake family."""
    base: dict[str, Any] = {
        "model": "fake",
        "prompt": prompt,
        "width": 64,
        "height": 64,
        "steps": 2,
    }
    return GenerationRequest.model_validate(base | changes)
