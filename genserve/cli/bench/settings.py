"""The configuration of benchmarks: the fake family on the CPU, everything else as shipped."""

from typing import Any

MODEL = "fake"


def settings(*, workers: int = 1, **options: Any) -> dict[str, Any]:
    """As config.yaml holds it. `options` are the fake model's."""
    return {
        "pool": {"devices": f"cpu:{workers}", "threads": 1},
        "models": {MODEL: {"family": "fake", "multiple_of": 8, "options": options}},
    }
