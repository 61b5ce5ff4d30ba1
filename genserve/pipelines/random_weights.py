"""Networks of the right architecture with made-up weights, for benchmarks and tests."""

from pathlib import Path
from typing import Any

import torch

from genserve.pipelines.base import BrokenModel


def make(network: Any, folder: Path, dtype: torch.dtype, device: str) -> Any:
    """The network of that class by its configuration in `folder`, made on the device at once.

    The same weights each time, so that a restarted worker draws the same test picture. Raises
    `BrokenModel` when there is no configuration.
    """
    if not (folder / "config.json").is_file():
        raise BrokenModel(f"{folder.parent.name}/{folder.name}/config.json is missing")
    usual = torch.get_default_dtype()
    try:
        # Made in the numbers that they are to be kept in: wider ones would not fit the device.
        torch.set_default_dtype(dtype)
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(0)
            return _cast_tables(_made(network, folder).eval(), dtype)
    finally:
        torch.set_default_dtype(usual)


def _made(network: Any, folder: Path) -> Any:
    """By diffusers, whose configurations are dictionaries, or by transformers, with classes."""
    if hasattr(network, "load_config"):
        return network.from_config(network.load_config(folder, local_files_only=True))
    return network(network.config_class.from_pretrained(folder, local_files_only=True))


def _cast_tables(network: Any, dtype: torch.dtype) -> Any:
    """What lies beside the weights in a file is read in their numbers, as SD3's table of positions,
    which its class makes in float32. What is not in a file stays as it is made."""
    saved = network.state_dict().keys()
    for name, table in network.named_buffers():
        if name in saved and table.is_floating_point():
            table.data = table.data.to(dtype)
    return network
