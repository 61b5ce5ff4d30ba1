"""The configuration of benchmarks: the fake family on the CPU, everything else as shipped."""

from typing import Any

MODEL = "fake"


def settings() -> dict[str, Any]:
    """As config.yaml holds it."""
    return {
        "pool": {"devices": "cpu:1", "threads": 1},
        "models": {MODEL: {"family": "fake", "multiple_of": 8}},
    }
