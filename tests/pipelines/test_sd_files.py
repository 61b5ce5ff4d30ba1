"""What a Stable Diffusion model may be made of: one checkpoint file, another VAE, trained words."""

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from genserve.domain.request import ImageRole
from genserve.errors import EmbeddingBroken, UnknownVae, VaeDoesNotFit
from genserve.pipelines import sd_loading
from genserve.pipelines.base import BrokenModel, Pipeline
from genserve.pipelines.sd15 import LAYOUT as SD15
from tests.pipelines import original_layout
from tests.pipelines import tiny_diffusion as tiny
from tests.pipelines.diffusion_models import colourful, draw, loaded

FAMILIES = ["sd15", "sdxl", "sd3"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls out is told on."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("something wants the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def checkpoint(model: Pipeline, folder: Path, configs: Path) -> Path:
    """The model as one file in the original layout, with the tiny configurations beside it."""
    folder.mkdir()
    original_layout.save_checkpoint(folder / "model.safetensors", model.parts())
    for part in configs.iterdir():
        if part.is_dir():
            ignore = shutil.ignore_patterns("*.safetensors")
            shutil.copytree(part, folder / part.name, ignore=ignore)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_is_the_same_model(family: str, tiny_models: Path, tmp_path: Path):
    whole = loaded(tiny_models / family, family)
    folder = checkpoint(whole, tmp_path / "single", tiny_models / family)
    single = loaded(folder, family)
    for name, network in whole.parts().items():
        expected, read = network.state_dict(), single.parts()[name].state_dict()
        assert expected.keys() == read.keys(), name
        assert all(torch.equal(expected[key], read[key]) for key in expected), name
    assert draw(single).tobytes() == draw(whole).tobytes()


def test_a_single_file_of_a_unet_that_fills(tmp_path: Path):
    whole = loaded(tiny.build_sd15(tmp_path / "fill", in_channels=9), "sd15")
    folder = checkpoint(whole, tmp_path / "single", tmp_path / "fill")
    tiny.edit_json(folder / "unet" / "config.json", in_channels=4)  # the file knows better
    assert loaded(folder, "sd15").parts()["unet"].config.in_channels == 9


def test_a_single_file_without_text_encoders(tiny_models: Path, tmp_path: Path):
    whole = loaded(tiny_models / "sd3", "sd3")
    folder = checkpoint(whole, tmp_path / "single", tiny_models / "sd3")
    file = folder / "model.safetensors"
    kept = {k: v for k, v in load_file(file).items() if not k.startswith("text_encoders.t5xxl")}
    save_file(kept, file)
    assert "text_encoder_3" not in loaded(folder, "sd3").parts()


def test_what_a_single_file_lacks_is_told(tiny_models: Path, tmp_path: Path):
    whole = loaded(tiny_models / "sd15", "sd15")
    folder = checkpoint(whole, tmp_path / "single", tiny_models / "sd15")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if "middle_block.1" not in k}, file)
    with pytest.raises(BrokenModel, match="lacks weights of unet"):
        loaded(folder, "sd15")
    save_file(tensors, file)
    with pytest.raises(BrokenModel, match="no checkpoint of a sdxl model"):
        loaded(folder, "sdxl")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BrokenModel, match="not a whole safetensors file"):
        loaded(folder, "sd15")
    shutil.copy(file, folder / "second.safetensors")
    with pytest.raises(BrokenModel, match=r"one single \.safetensors"):
        loaded(folder, "sd15")


def test_t5_needs_its_tokenizer_beside_the_file(tiny_models: Path, tmp_path: Path):
    whole = loaded(tiny_models / "sd3", "sd3")
    folder = checkpoint(whole, tmp_path / "single", tiny_models / "sd3")
    shutil.rmtree(folder / "tokenizer_3")
    with pytest.raises(BrokenModel, match="tokenizer_3 is missing"):
        loaded(folder, "sd3")


def test_t5_in_scaled_fp8_is_refused(tiny_models: Path, tmp_path: Path):
    whole = loaded(tiny_models / "sd3", "sd3")
    folder = checkpoint(whole, tmp_path / "single", tiny_models / "sd3")
    file = folder / "model.safetensors"
    scale = {"text_encoders.t5xxl.transformer.scaled_fp8": torch.zeros(1)}
    save_file(load_file(file) | scale, file)
    with pytest.raises(BrokenModel, match="scaled fp8"):
        loaded(folder, "sd3")


def test_a_finetune_that_predicts_velocity_says_so(tiny_models: Path, tmp_path: Path):
    whole = loaded(tiny_models / "sdxl", "sdxl")
    folder = checkpoint(whole, tmp_path / "single", tiny_models / "sdxl")
    file = folder / "model.safetensors"
    save_file(load_file(file) | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, file)
    trained = loaded(folder, "sdxl")._parts.trained  # type: ignore[attr-defined]
    assert trained["prediction_type"] == "v_prediction"
    assert trained["rescale_betas_zero_snr"] is True


# What ships with GenServe, for single files without anything beside them

COUNTS = [
    ("sd15", "unet", UNet2DConditionModel, 859_520_964),
    ("sd15", "vae", AutoencoderKL, 83_653_863),
    ("sd15", "text_encoder", CLIPTextModel, 123_060_480),
    ("sdxl", "unet", UNet2DConditionModel, 2_567_463_684),
    ("sdxl", "vae", AutoencoderKL, 83_653_863),
    ("sdxl", "text_encoder", CLIPTextModel, 123_060_480),
    ("sdxl", "text_encoder_2", CLIPTextModelWithProjection, 694_659_840),
    ("sd3", "transformer/sd3-medium", SD3Transformer2DModel, 2_028_328_000),
    ("sd3", "transformer/sd3.5-medium", SD3Transformer2DModel, 2_243_171_520),
    ("sd3", "transformer/sd3.5-large", SD3Transformer2DModel, 8_056_627_520),
    ("sd3", "text_encoder_2", CLIPTextModelWithProjection, 694_659_840),
]
"""Parameters as the models' authors count them (Hugging Face's pages show the same)."""


def on_paper(network: Any, folder: Path) -> Any:
    """The network without weights."""
    with torch.device("meta"):
        if network in (CLIPTextModel, CLIPTextModelWithProjection):
            return network(CLIPTextConfig.from_pretrained(folder))
        if network is T5EncoderModel:
            return network(T5Config.from_pretrained(folder))
        return network.from_config(network.load_config(folder))


@pytest.mark.parametrize(("family", "part", "network", "count"), COUNTS)
def test_shipped_configurations_are_the_real_models(
    family: str, part: str, network: Any, count: int
):
    weights = on_paper(network, sd_loading.SHIPPED / family / part).parameters()
    assert sum(weight.numel() for weight in weights) == count


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("sd15", {"unet": UNet2DConditionModel, "vae": AutoencoderKL}),
        ("sdxl", {"unet": UNet2DConditionModel, "vae": AutoencoderKL}),
    ],
)
def test_full_size_checkpoints_fit_the_shipped_configurations(family: str, names: dict[str, Any]):
    """Without a byte of weights: every name and shape of the original layout finds its place."""
    networks = {
        name: on_paper(network, sd_loading.SHIPPED / family / name)
        for name, network in names.items()
    }
    tensors = original_layout.unet_tensors(networks["unet"])
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in tensors.items()}
    vae = original_layout.vae_tensors(networks["vae"])
    prefixed |= {f"first_stage_model.{name}": tensor for name, tensor in vae.items()}
    for name, network in networks.items():
        convert = getattr(single_file_utils, f"convert_ldm_{name}_checkpoint")
        config = json.loads((sd_loading.SHIPPED / family / name / "config.json").read_text())
        converted = {k: v.shape for k, v in convert(dict(prefixed), config=config).items()}
        assert converted == {k: v.shape for k, v in network.state_dict().items()}


def test_a_file_without_tokenizer_takes_its_bases(tiny_models: Path, tmp_path: Path):
    whole = loaded(tiny_models / "sd15", "sd15")
    folder = checkpoint(whole, tmp_path / "single", tiny_models / "sd15")
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(BrokenModel, match=r"single/tokenizer is missing.*`base`"):
        loaded(folder, "sd15")
    lent = loaded(folder, "sd15", base=tiny_models / "sd15")
    assert draw(lent).tobytes() == draw(whole).tobytes()


def test_configurations_ship_for_a_file_alone(tmp_path: Path):
    for name in (*SD15.networks, "scheduler"):
        folder = sd_loading.config_of(tmp_path, SD15, name)
        assert folder.is_relative_to(sd_loading.SHIPPED)
        assert any(folder.iterdir())


# Another VAE


@pytest.fixture
def vaes(tmp_path: Path) -> dict[str, Path]:
    """Two other VAEs, as a folder and as a file, and one that does not fit."""
    torch.manual_seed(99)
    other = tiny.vae()
    other.save_pretrained(tmp_path / "folder")
    save_file(
        {k: v.contiguous() for k, v in other.state_dict().items()}, tmp_path / "file.safetensors"
    )
    tiny.vae(16).save_pretrained(tmp_path / "large")
    return {
        "folder": tmp_path / "folder",
        "file": tmp_path / "file.safetensors",
        "large": tmp_path / "large",
    }


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_another_vae_decodes_and_encodes(family: str, tiny_models: Path, vaes: dict[str, Path]):
    model = loaded(tiny_models / family, family, vaes=vaes)
    own = draw(model)
    other = draw(model, vae="folder")
    assert other.tobytes() != own.tobytes()
    before = model.size_bytes()
    init = {ImageRole.INIT: colourful()}
    redrawn = [draw(model, None, init, mode="img2img", vae=vae) for vae in (None, "folder")]
    assert redrawn[0].tobytes() != redrawn[1].tobytes()
    assert draw(model).tobytes() == own.tobytes()
    model.unload()
    assert before > model.size_bytes() == 0


def test_a_vae_that_is_first_read_while_pictures_are_drawn_in_tiles_decodes_in_tiles(
    tiny_models: Path, vaes: dict[str, Path]
):
    model = loaded(tiny_models / "sd15", "sd15", vaes=vaes)
    large: dict[str, Any] = {"vae": "folder", "steps": 1, "width": 128, "height": 128}
    with model.low_memory() or nullcontext():
        first, second = (draw(model, **large).tobytes() for _ in range(2))
    whole = draw(model, **large).tobytes()
    assert first == second != whole
    with model.low_memory() or nullcontext():
        assert draw(model, **large).tobytes() == first


def test_a_models_own_vae_can_be_configured(tiny_models: Path, vaes: dict[str, Path]):
    asked = draw(loaded(tiny_models / "sd15", "sd15", vaes=vaes), vae="folder")
    configured = loaded(tiny_models / "sd15", "sd15", vae=vaes["folder"])
    assert draw(configured).tobytes() == asked.tobytes()
    with pytest.raises(BrokenModel, match="16 latent channels, not 4"):
        loaded(tiny_models / "sd15", "sd15", vae=vaes["large"])


def test_a_vae_in_a_single_file_of_either_layout(tiny_models: Path, tmp_path: Path, monkeypatch):
    """Single files are of the real VAE's shape, so that one's configuration is made tiny."""
    shipped = tmp_path / "configs"
    torch.manual_seed(98)
    other = tiny.vae()
    other.save_pretrained(shipped / "sd15" / "vae")
    monkeypatch.setattr("genserve.pipelines.sd_parts.SHIPPED", shipped)
    theirs = original_layout.vae_tensors(other)
    vaes = {"ours": tmp_path / "ours.safetensors", "theirs": tmp_path / "theirs.safetensors"}
    save_file({k: v.contiguous() for k, v in other.state_dict().items()}, vaes["ours"])
    save_file({k: v.contiguous() for k, v in theirs.items()}, vaes["theirs"])
    model = loaded(tiny_models / "sd15", "sd15", vaes=vaes)
    images = [draw(model, vae=vae).tobytes() for vae in ("ours", "theirs")]
    assert images[0] == images[1] != draw(model).tobytes()


def test_a_vae_that_is_not_there_or_does_not_fit(tiny_models: Path, vaes: dict[str, Path]):
    model = loaded(tiny_models / "sd15", "sd15", vaes=vaes)
    before = draw(model)
    with pytest.raises(UnknownVae, match="folder"):
        draw(model, vae="nope")
    with pytest.raises(VaeDoesNotFit, match="16 latent channels, not 4"):
        draw(model, vae="large")
    config = vaes["folder"] / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.13025}))
    with pytest.raises(VaeDoesNotFit, match=r"scales latents by 0\.13025, not by 0\.18215"):
        draw(model, vae="folder")
    shutil.rmtree(vaes["folder"])
    with pytest.raises(VaeDoesNotFit, match="missing"):
        draw(model, vae="folder")
    assert draw(model).tobytes() == before.tobytes()


# Trained words


@pytest.fixture
def embeddings(tmp_path: Path) -> dict[str, Path]:
    """One in each form, for each family, and one for other models."""
    chance = torch.Generator().manual_seed(5)
    forms = {
        "a1111": {"emb_params": torch.randn(2, tiny.WIDTH, generator=chance)},
        "diffusers": {"<x>": torch.randn(tiny.WIDTH, generator=chance)},
        "forXL": {
            "clip_l": torch.randn(3, tiny.WIDTH, generator=chance),
            "clip_g": torch.randn(3, tiny.WIDE, generator=chance),
        },
        "forOthers": {"emb_params": torch.randn(2, 7, generator=chance)},
    }
    for name, tensors in forms.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    return {name: tmp_path / f"{name}.safetensors" for name in forms}


@pytest.mark.parametrize(
    ("family", "fitting"),
    [("sd15", {"a1111", "diffusers"}), ("sdxl", {"forXL"}), ("sd3", {"forXL"})],
)
def test_trained_words_act_where_they_fit(
    family: str, fitting: set[str], tiny_models: Path, embeddings: dict[str, Path]
):
    knows = loaded(tiny_models / family, family, embeddings=embeddings)
    plain = loaded(tiny_models / family, family)
    for name in embeddings:
        prompt = f"a cat, {name}"
        same = draw(knows, prompt=prompt).tobytes() == draw(plain, prompt=prompt).tobytes()
        assert same == (name not in fitting), name
    before = draw(plain).tobytes()
    assert draw(knows).tobytes() == before
    name = next(iter(fitting))
    unwanted = [draw(model, negative_prompt=name).tobytes() for model in (knows, plain)]
    assert unwanted[0] != unwanted[1]


def test_a_trained_word_whose_file_is_gone_or_broken(
    tiny_models: Path, embeddings: dict[str, Path]
):
    model = loaded(tiny_models / "sd15", "sd15", embeddings=embeddings)
    embeddings["a1111"].unlink()
    with pytest.raises(EmbeddingBroken, match=r"a1111\.safetensors is gone"):
        draw(model, prompt="a1111")
    embeddings["diffusers"].write_bytes(b"\0" * 100)
    with pytest.raises(EmbeddingBroken, match="cannot be read"):
        draw(model, prompt="diffusers")
    draw(model, steps=1)
