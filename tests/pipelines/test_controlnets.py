"""ControlNets are read when they are first asked for, kept, shared, and make room like models."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from genserve.domain.model import ModelSpec
from genserve.domain.request import ControlType, GenerationRequest, ImageRole
from genserve.errors import UnsupportedControl
from genserve.pipelines.base import BrokenModel, Pipeline
from genserve.pipelines.cache import Residents
from genserve.pipelines.shelf import Shelf
from genserve.pipelines.weighing import weights_bytes
from tests.pipelines.diffusion_models import asked, colourful, control, draw, spec_of
from tests.pipelines.flux_family import FluxFamily

STEERED = asked(mode="controlnet", images=control(type="canny"))
PLAIN = asked()


@pytest.fixture(scope="module")
def folders(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same ControlNet twice, and another one."""
    root, canny = tmp_path_factory.mktemp("controls"), tiny_models / "sd15-canny"
    found = {"canny": canny}
    for name in ("copy", "depth"):
        found[name] = shutil.copytree(canny, root / name)
    config = root / "depth" / "config.json"
    changed = json.loads(config.read_text()) | {"conditioning_channels": 3, "another": True}
    config.write_text(json.dumps(changed))
    return found


def spec(tiny_models: Path, name: str = "sd15", **controls: Path) -> ModelSpec:
    return spec_of(tiny_models / "sd15", "sd15", controls=controls).model_copy(update={"id": name})


def controlnets(pipeline: Pipeline) -> set[str]:
    return {name for name in pipeline.parts() if name.startswith("controlnet")}


def loaded(model: ModelSpec, shelf: Shelf) -> Pipeline:
    return Residents("cpu", 10**12, shelf).load(model)


def test_only_the_one_that_is_asked_for_is_read_and_stays(
    tiny_models: Path, folders: dict[str, Path]
):
    shelf = Shelf()
    both = spec(tiny_models, canny=folders["canny"], depth=folders["depth"])
    model = loaded(both, shelf)
    alone = model.size_bytes()
    assert controlnets(model) == set()
    assert not shelf.holds(folders["canny"])
    assert model.lacking(PLAIN) == {}
    draw(model, steps=1)
    assert controlnets(model) == set()
    ((folder, read),) = model.lacking(STEERED).items()
    assert folder == folders["canny"]
    read()
    assert controlnets(model) == {"controlnet_canny"}
    assert model.size_bytes() > alone
    assert model.lacking(STEERED) == {}
    network = model.parts()["controlnet_canny"]
    pictures = {ImageRole.CONTROL: colourful()}
    draw(model, None, pictures, mode="controlnet", images=control(type="canny"), steps=1)
    assert model.parts()["controlnet_canny"] is network
    model.unload()
    assert not shelf.holds(folders["canny"])


def test_a_recipe_reads_it_too_where_nobody_did_before(tiny_models: Path, folders: dict[str, Path]):
    model = loaded(spec(tiny_models, canny=folders["canny"]), Shelf())
    draw(
        model, None, {ImageRole.CONTROL: colourful()}, mode="controlnet", images=control(), steps=1
    )
    assert controlnets(model) == {"controlnet"}


def test_one_for_another_kind_of_model_is_told(tiny_models: Path):
    model = loaded(spec(tiny_models, canny=tiny_models / "sdxl-canny"), Shelf())
    before = model.size_bytes()
    with pytest.raises(BrokenModel, match="sdxl-canny is a ControlNet for another kind of model"):
        model.lacking(STEERED)[tiny_models / "sdxl-canny"]()
    assert model.size_bytes() == before, "what is refused takes no memory"


def test_one_whose_configuration_leaves_out_the_librarys_defaults_is_judged_by_them(
    tiny_models: Path, tmp_path: Path
):
    sparse = shutil.copytree(tiny_models / "sd15-canny", tmp_path / "sparse")
    settings = json.loads((sparse / "config.json").read_text())
    assert settings.pop("addition_embed_type") is None
    (sparse / "config.json").write_text(json.dumps(settings))
    model = loaded(spec(tiny_models, canny=sparse), Shelf())
    model.lacking(STEERED)[sparse]()
    assert controlnets(model) == {"controlnet"}
    del settings["cross_attention_dim"]
    (sparse / "config.json").write_text(json.dumps(settings))
    with pytest.raises(BrokenModel, match="its cross_attention_dim is 1280, the UNet's 32"):
        loaded(spec(tiny_models, canny=sparse), Shelf()).lacking(STEERED)[sparse]()


def test_two_models_hold_an_equal_one_once(tiny_models: Path, folders: dict[str, Path]):
    shelf = Shelf()
    residents = Residents("cpu", 10**12, shelf)
    specs = [spec(tiny_models, name, canny=folders[name]) for name in ("canny", "copy")]
    for one in specs:
        residents.load(one)
        residents.complete(one, STEERED)
    first, second = (residents.find(one) for one in specs)
    assert first is not None
    assert second is not None
    assert first.parts()["controlnet"] is second.parts()["controlnet"]


def test_what_is_to_be_loaded_is_counted_when_it_is_loaded(
    tiny_models: Path, folders: dict[str, Path]
):
    with_two = spec(tiny_models, canny=folders["canny"], depth=folders["depth"])
    plain = spec(tiny_models)
    assert weights_bytes(with_two, Shelf()) == weights_bytes(plain, Shelf()) > 0


def test_a_model_that_is_nothing_but_a_controlnet_counts_its_base(family: FluxFamily):
    pose = family.openpose()
    assert pose.controls == {ControlType.OPENPOSE: pose.folder}
    elsewhere = pose.model_copy(update={"folder": family.root / "nothing"})
    base = family.base()
    for model in (pose, elsewhere):
        assert weights_bytes(model, Shelf()) == weights_bytes(base, Shelf()) > 0
    shelf = Shelf()
    flux = loaded(elsewhere, shelf)
    assert controlnets(flux) == set()
    asks = GenerationRequest(model="x", prompt="x", mode="controlnet", images=control())
    for read in flux.lacking(asks).values():
        read()
    assert controlnets(flux) == {"controlnet"}


def test_a_controlnet_makes_room_for_itself_but_not_by_its_own_model(
    tiny_models: Path, folders: dict[str, Path]
):
    steered = spec(tiny_models, "steered", canny=folders["canny"])
    shelf = Shelf()
    roomy = Residents("cpu", 10**12, shelf)
    roomy.load(steered)
    roomy.complete(steered, STEERED)
    needed = roomy.used_bytes()
    for budget, stays in ((needed + 100, True), (needed + 99, False), (1, False)):
        residents = Residents("cpu", budget)
        if budget > 1:
            residents.load(fake("other", size_bytes=100))
        residents.load(steered)
        assert ("other" in residents.ids) is (budget > 1)
        residents.complete(steered, PLAIN)
        assert ("other" in residents.ids) is (budget > 1)
        residents.complete(steered, STEERED)
        assert residents.ids == (("other", "steered") if stays else ("steered",))
        pipeline = residents.find(steered)
        assert pipeline is not None
        assert controlnets(pipeline) == {"controlnet"}


def fake(name: str, **options: Any) -> ModelSpec:
    return ModelSpec(id=name, family="fake", folder=Path("nowhere"), options=options)


def test_one_that_lacks_weights_is_broken_and_the_model_draws_on(tiny_models: Path, tmp_path: Path):
    lame = shutil.copytree(tiny_models / "sd15-canny", tmp_path / "lame")
    (file,) = lame.glob("*.safetensors")
    tensors = load_file(file)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, file, metadata={"format": "pt"})
    model = loaded(spec(tiny_models, canny=lame, depth=tmp_path / "gone"), Shelf())
    ((_, read),) = model.lacking(STEERED).items()
    with pytest.raises(BrokenModel, match="lame lacks weights"):
        read()
    ((_, read),) = model.lacking(asked(mode="controlnet", images=control(type="depth"))).items()
    with pytest.raises(BrokenModel, match="gone is missing"):
        read()
    assert controlnets(model) == set()
    draw(model, steps=1)


def test_a_type_that_the_model_lacks_is_nothing_to_read_and_is_refused(
    tiny_models: Path, folders: dict[str, Path]
):
    model = loaded(spec(tiny_models, canny=folders["canny"]), Shelf())
    asks: dict[str, Any] = {"mode": "controlnet", "images": control(type="openpose")}
    assert model.lacking(asked(**asks)) == {}
    with pytest.raises(UnsupportedControl, match="it supports: canny"):
        draw(model, None, {ImageRole.CONTROL: colourful()}, **asks)
