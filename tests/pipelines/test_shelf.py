"""Components that several models hold are in memory once."""

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from safetensors.torch import save_file

from genserve.pipelines.cache import Residents
from genserve.pipelines.flux import Flux
from genserve.pipelines.shelf import Shelf
from genserve.pipelines.weighing import weights_bytes
from tests.pipelines.conftest import Watcher, request
from tests.pipelines.flux_family import FluxFamily

ANN, BOB, EVE = "ann", "bob", "eve"
FORM = "float32"


def component(folder: Path, value: float = 1.0, **config: Any) -> Path:
    folder.mkdir(parents=True)
    save_file({"weight": torch.full((256, 4), value)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"hidden_size": 4} | config))
    return folder


def made() -> Any:
    return torch.nn.Linear(4, 256, bias=False)


def never() -> Any:
    raise AssertionError("it is there already")


def test_equal_files_are_held_once_wherever_they_lie(tmp_path: Path):
    shelf = Shelf()
    one = component(tmp_path / "a" / "vae", _name_or_path="../flux", _diffusers_version="0.30")
    other = component(tmp_path / "b" / "vae", transformers_version="5", dtype="float16")
    first = shelf.take(ANN, one, FORM, made)
    assert shelf.take(BOB, other, FORM, never) is first
    assert shelf.take(ANN, one, FORM, never) is first
    assert shelf.holds(other)


def test_links_to_one_file_are_one_file(tmp_path: Path):
    shelf = Shelf()
    one = component(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for file in one.iterdir():
        (tmp_path / "b" / file.name).symlink_to(file)
    first = shelf.take(ANN, one, FORM, made)
    assert shelf.take(BOB, tmp_path / "b", FORM, never) is first


@pytest.mark.parametrize(
    "differ",
    [
        lambda folder: component(folder, value=2.0),
        lambda folder: component(folder, hidden_act="gelu"),
        lambda folder: component(folder, _class_name="AnotherVae"),
    ],
)
def test_other_weights_or_another_configuration_are_another_component(
    tmp_path: Path, differ: Callable[[Path], Path]
):
    shelf = Shelf()
    first = shelf.take(ANN, component(tmp_path / "a"), FORM, made)
    other = differ(tmp_path / "b")
    assert not shelf.holds(other)
    assert shelf.take(BOB, other, FORM, made) is not first


def test_another_form_is_another_component(tmp_path: Path):
    shelf, folder = Shelf(), component(tmp_path / "a")
    first = shelf.take(ANN, folder, "float32", made)
    assert shelf.take(BOB, folder, "bfloat16", made) is not first


def test_a_file_that_changed_since_it_was_read_is_read_again(tmp_path: Path):
    shelf, folder = Shelf(), component(tmp_path / "a")
    first = shelf.take(ANN, folder, FORM, made)
    shutil.rmtree(folder)
    component(folder, value=3.0)
    assert shelf.take(BOB, folder, FORM, made) is not first
    # Nobody can tell any more what was read, so what looks alike is not taken for it.
    assert shelf.take(EVE, component(tmp_path / "b"), FORM, made) is not first


def test_it_is_gone_when_its_last_user_is(tmp_path: Path):
    shelf, folder = Shelf(), component(tmp_path / "a")
    kept = ref(shelf.take(ANN, folder, FORM, made))
    shelf.take(BOB, folder, FORM, never)
    shelf.give_back(ANN)
    shelf.give_back(ANN)
    assert kept() is not None
    shelf.give_back(BOB)
    gc.collect()
    assert kept() is None
    assert not shelf.holds(folder)


def test_what_could_not_be_made_is_not_held(tmp_path: Path):
    def too_large() -> Any:
        raise MemoryError

    shelf, folder = Shelf(), component(tmp_path / "a")
    with pytest.raises(MemoryError):
        shelf.take(ANN, folder, FORM, too_large)
    assert not shelf.holds(folder)


def test_shared_bytes_are_counted_once_and_are_nobodys_own(tmp_path: Path):
    shelf = Shelf()
    shared, own = component(tmp_path / "a"), component(tmp_path / "b", value=2.0)
    size = 256 * 4 * 4
    shelf.take(ANN, shared, FORM, made)
    shelf.take(ANN, own, FORM, made)
    assert (shelf.alone_bytes(ANN), shelf.shared_bytes()) == (2 * size, 0)
    shelf.take(BOB, shared, FORM, never)
    assert (shelf.alone_bytes(ANN), shelf.alone_bytes(BOB)) == (size, 0)
    assert shelf.shared_bytes() == size


def test_what_waits_outside_of_the_device_takes_nothing_there(tmp_path: Path):
    shelf = Shelf("cuda")
    shelf.take(ANN, component(tmp_path / "a"), FORM, made)
    assert shelf.alone_bytes(ANN) == 0


def test_hashes_are_remembered_by_later_processes(tmp_path: Path):
    one, other = component(tmp_path / "a"), component(tmp_path / "b")
    for _ in range(2):
        shelf = Shelf(hashes=tmp_path / "hashes")
        first = shelf.take(ANN, one, FORM, made)
        assert shelf.take(BOB, other, FORM, never) is first
    remembered = list((tmp_path / "hashes").iterdir())
    assert len(remembered) == 2
    remembered[0].write_text("0" * 64)  # were it not believed, the files would be equal again
    shelf = Shelf(hashes=tmp_path / "hashes")
    first = shelf.take(ANN, one, FORM, made)
    assert shelf.take(BOB, other, FORM, made) is not first


def test_a_folder_that_cannot_remember_costs_nothing_else(tmp_path: Path):
    one, other = component(tmp_path / "a"), component(tmp_path / "b")
    (tmp_path / "hashes").write_text("a file where the folder should be")
    shelf = Shelf(hashes=tmp_path / "hashes")
    first = shelf.take(ANN, one, FORM, made)
    assert shelf.take(BOB, other, FORM, never) is first


# Flux's variants


def test_variants_of_flux_hold_encoders_and_vae_once(family: FluxFamily):
    shelf, residents = _residents()
    base, fill, redux = (residents.load(s) for s in (family.base(), family.fill(), family.redux()))
    for name in ("text_encoder", "text_encoder_2", "vae"):
        assert base.parts()[name] is fill.parts()[name] is redux.parts()[name], name
    assert base.parts()["transformer"] is redux.parts()["transformer"]
    assert base.parts()["transformer"] is not fill.parts()["transformer"]
    networks = {id(part): part for one in (base, fill, redux) for part in one.parts().values()}
    assert residents.used_bytes() == sum(_bytes(network) for network in networks.values())
    assert base.size_bytes() == 0
    assert fill.size_bytes() == _bytes(fill.parts()["transformer"])
    assert shelf.shared_bytes() > 0


def test_what_is_there_needs_no_room(family: FluxFamily):
    """With room for the base model and a little more, Redux is loaded beside it."""
    shelf, residents = _residents()
    residents.load(family.base())
    redux = family.redux()
    more = weights_bytes(redux, shelf)
    assert 0 < more < weights_bytes(redux, Shelf()) / 5
    slack = more // 10  # buffers are in no file
    tight = Residents("cpu", residents.used_bytes() + more + slack, Shelf())
    for spec in (family.base(), redux):
        tight.load(spec)
    assert tight.ids == ("base", "redux")
    tight.load(family.fill())
    assert "fill" in tight.ids
    assert len(tight.ids) < 3


def test_a_model_that_has_changed_keeps_the_networks_that_have_not(family: FluxFamily):
    shelf, residents = _residents()
    old = family.base()
    new = old.model_copy(update={"stamp": "a new embedding"})
    transformer = residents.load(old).parts()["transformer"]
    taken = residents.load(new)
    assert taken.parts()["transformer"] is transformer
    assert residents.used_bytes() == taken.size_bytes() > 0
    assert shelf.shared_bytes() == 0


def test_a_variant_draws_on_when_the_other_is_unloaded(family: FluxFamily):
    _, residents = _residents()
    fill = family.fill()
    for spec in (family.base(), fill):
        residents.load(spec)
    flux = residents.find(fill)
    assert flux is not None
    before = flux.generate(request(), 1, {}, Watcher()).tobytes()
    assert residents.evict_others("fill")
    assert flux.generate(request(), 1, {}, Watcher()).tobytes() == before
    assert residents.used_bytes() == flux.size_bytes()


def test_a_model_that_cannot_be_read_to_its_end_leaves_nothing(family: FluxFamily, tmp_path: Path):
    shelf, residents = _residents()
    folder = tmp_path / "lame"
    shutil.copytree(family.base().folder, folder)
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(Exception, match="text_encoder_2"):
        residents.load(family.spec("lame", folder=folder))
    assert not shelf.holds(folder / "transformer")
    assert residents.ids == ()


def _residents() -> tuple[Shelf, Residents]:
    shelf = Shelf()
    return shelf, Residents("cpu", 10**12, shelf)


def _bytes(network: Any) -> int:
    weights = [*network.parameters(), *network.buffers()]
    return sum(weight.numel() * weight.element_size() for weight in weights)


def test_unloading_what_was_never_loaded_is_nothing():
    flux = Flux()
    flux.unload()
    assert flux.size_bytes() == 0
