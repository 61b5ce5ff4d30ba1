"""What lies in the folders, and which models of the configuration need it."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from genserve.config import Config
from genserve.core.install.removal import find, remove
from genserve.core.install.survey import Found, survey
from genserve.errors import NotRemovable
from tests.core.test_catalog import install
from tests.core.test_found_folders import DECODER, as_ordinary_user, weights
from tests.core.test_inventory import BASE, network, redux


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Base, ControlNet and Redux are there; q4 is not."""
    settings: dict[str, Any] = {"models_dir": tmp_path / "models", "loras_dir": tmp_path / "loras"}
    config = Config.model_validate(settings | {"models": BASE})
    install(config.models_dir / "dev")
    network(config.models_dir / "pose")
    redux(config.models_dir / "redux")
    return config


def found(config: Config) -> dict[str, Found]:
    return {one.name: one for one in survey(config)}


def test_a_base_is_used_by_what_is_drawn_with_it(config: Config):
    scanned = found(config)
    assert scanned["dev"].used_by == ("dev", "pose", "redux", "q4")
    assert scanned["pose"].used_by == ("pose",)
    assert scanned["redux"].used_by == ("redux",)


def test_of_what_is_removed_the_others_are_told_that_work_now(config: Config):
    assert find(config, "dev").others == ("pose", "redux")
    assert find(config, "redux").others == ()
    (config.models_dir / "redux" / "image_encoder" / "config.json").unlink()
    assert find(config, "dev").others == ("pose",)


def test_a_lora_is_shown_where_it_lies(config: Config):
    config.loras_dir.mkdir()
    (config.loras_dir / "bad.pt").write_bytes(b"x")
    bad = found(config)["bad"]
    assert bad.path == config.loras_dir / "bad.pt"
    assert bad.path.exists()


def test_a_vae_beside_the_models_is_no_stray_file(config: Config):
    models = BASE | {"sd": {"family": "sd15", "vaes": True, "vae": "used.safetensors"}}
    config = Config.model_validate(config.model_dump() | {"models": models})
    for name in ("used", "other"):
        weights(config.models_dir / f"{name}.safetensors", DECODER)
    weights(config.models_dir / "lora.safetensors", "lora.weight")
    scanned = found(config)
    assert (scanned["used.safetensors"].what, scanned["other.safetensors"].what) == ("part", "part")
    assert scanned["used.safetensors"].used_by == ("sd",)
    assert scanned["other.safetensors"].problem is None
    assert scanned["lora.safetensors"].what == "stray"


def test_a_folder_that_cannot_be_read_is_told_and_the_others_are_looked_at():
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("dev", "pose"):
            install(folder / "models" / name)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        (folder / "models" / "dev").chmod(0)
        settings: dict[str, Any] = {"models_dir": folder / "models", "loras_dir": folder / "loras"}
        with as_ordinary_user():
            scanned = found(Config.model_validate(settings | {"models": {}}))
    assert scanned["dev"].problem == "dev cannot be read: Permission denied"
    assert scanned["pose"].problem is None


def test_a_vaes_file_can_be_removed_and_another_file_cannot(config: Config):
    models = BASE | {"sd": {"family": "sd15", "vaes": True, "vae": "used.safetensors"}}
    config = Config.model_validate(config.model_dump() | {"models": models})
    used = config.models_dir / "used.safetensors"
    weights(used, DECODER)
    weights(config.models_dir / "lora.safetensors", "lora.weight")
    vae = find(config, "used.safetensors")
    assert (vae.path, vae.model_ids, vae.others) == (used, ("sd",), ())
    remove(config, vae)
    assert not used.exists()
    with pytest.raises(NotRemovable, match="not a folder"):
        find(config, "lora.safetensors")


def test_names_that_are_not_utf8_are_shown_all_the_same(config: Config):
    stray = config.models_dir / os.fsdecode("说明.zip".encode("gbk"))
    stray.write_bytes(b"x")
    (shown,) = (one for one in survey(config) if one.path == stray)
    assert shown.name.encode().endswith(b"\\udcc3\\udcf7.zip")
    assert shown.problem is not None
    assert shown.problem.encode().endswith(b"is no model; move it away")
