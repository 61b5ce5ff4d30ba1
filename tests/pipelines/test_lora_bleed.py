"""Hundreds of changes of clothes later, a picture without LoRAs is the one of a fresh process."""

import gc
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch

from genserve.cli.bench.memory import resident_mb
from genserve.domain.lora import LoraSource
from genserve.domain.request import LoraRef
from genserve.pipelines.flux import Flux
from genserve.pipelines.shelf import Shelf
from tests.pipelines import loras
from tests.pipelines.conftest import Watcher, request, tiny_spec

SWAPS, FILES, WARM_UP = 500, 10, 50
LEAK_MB = 24.0
"""Generous: what 450 swaps would leave if each left a tenth of one set of pristine weights."""


def picture(flux: Flux) -> str:
    return hashlib.sha256(flux.generate(request(steps=2), 1, {}, Watcher()).tobytes()).hexdigest()


def loaded() -> Flux:
    torch.set_num_threads(1)
    flux = Flux()
    flux.load(tiny_spec(), "cpu", Shelf("cpu"))
    return flux


@pytest.fixture
def flux() -> Iterator[Flux]:
    threads = torch.get_num_threads()
    yield loaded()
    torch.set_num_threads(threads)


def files(flux: Flux, folder: Path) -> dict[str, LoraSource]:
    """Ten LoRAs in three layouts, of different layers, some for the text encoder too."""
    parts, made = flux.parts(), {}
    network, encoder = parts["transformer"], parts["text_encoder"]
    paths = loras.attention_paths(network)
    for number in range(FILES):
        chosen = Random(number).sample(paths, 12)
        if number % 3 == 0:
            tensors = loras.diffusers_lora(network, chosen, "transformer.", seed=number)
        elif number % 3 == 1:
            names = {path: path for path in chosen}
            tensors = loras.kohya_lora(network, names, "lora_transformer_", seed=number)
        else:
            by = loras.chance(number)
            ends = {"w1_a": (160, 3), "w1_b": (3, 160), "w2_a": (160, 3), "w2_b": (3, 160)}
            tensors = {
                f"transformer.{path}.hada_{end}": loras.randn(*shape, by=by)
                for path in chosen
                if "single" in path
                for end, shape in ends.items()
            }
        if number % 4 == 0:
            names = {path: f"text_model.{path}" for path in loras.attention_paths(encoder)}
            tensors |= loras.kohya_lora(encoder, names, "lora_te1_", seed=number)
        made[f"lora{number}"] = loras.write(folder / f"{number}.safetensors", tensors)
    return made


def test_nothing_is_left_after_500_swaps_among_10_loras(flux: Flux, tmp_path: Path):
    sources, clothes, chance = files(flux, tmp_path), loras.wardrobe(), Random(1)
    parts, resident_before = flux.parts(), 0.0
    for swap in range(SWAPS):
        if swap == WARM_UP:
            gc.collect()
            resident_before = resident_mb(os.getpid())
        chosen = chance.sample(sorted(sources), chance.choice((1, 1, 2, 3)))
        weights = [LoraRef(name=name, weight=chance.uniform(-1.5, 1.5)) for name in chosen]
        clothes.wear(parts, weights, sources)
    gc.collect()
    grown_mb = resident_mb(os.getpid()) - resident_before
    fresh = in_a_fresh_process()
    assert picture(flux) != fresh
    clothes.wear(parts)
    assert picture(flux) == fresh
    assert grown_mb < LEAK_MB
    on_disk = sum(source.size_bytes for source in sources.values())
    assert clothes.held_bytes <= on_disk, "nothing but the files that were read is held"


def in_a_fresh_process() -> str:
    drawn = subprocess.run(
        [sys.executable, "-m", __name__],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return drawn.stdout.strip()


if __name__ == "__main__":
    print(picture(loaded()))
