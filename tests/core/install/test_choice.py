"""Which files are fetched of repositories as they really are (their lists of files, abridged)."""

import pytest

from genserve.core.install.choice import Choice, Kind, choose, choose_file
from genserve.errors import NothingToLoad, PickleRefused
from genserve.outbound.checksum import Checksum
from genserve.outbound.hub import HubFile


def paths(text: str) -> list[str]:
    return text.split()


FLUX_COMPONENTS = [
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "transformer",
    "vae",
]
FLUX = paths("""
.gitattributes LICENSE.md README.md ae.safetensors dev_grid.jpg flux1-dev.safetensors
model_index.json scheduler/scheduler_config.json text_encoder/config.json
text_encoder/model.safetensors text_encoder_2/config.json
text_encoder_2/model-00001-of-00002.safetensors text_encoder_2/model-00002-of-00002.safetensors
text_encoder_2/model.safetensors.index.json tokenizer/merges.txt
tokenizer/special_tokens_map.json tokenizer/tokenizer_config.json tokenizer/vocab.json
tokenizer_2/special_tokens_map.json tokenizer_2/spiece.model tokenizer_2/tokenizer.json
tokenizer_2/tokenizer_config.json transformer/config.json
transformer/diffusion_pytorch_model-00001-of-00003.safetensors
transformer/diffusion_pytorch_model-00002-of-00003.safetensors
transformer/diffusion_pytorch_model-00003-of-00003.safetensors
transformer/diffusion_pytorch_model.safetensors.index.json vae/config.json
vae/diffusion_pytorch_model.safetensors
""")
SD15 = paths("""
.gitattributes README.md v1-5-pruned.ckpt v1-5-pruned.safetensors v1-5-pruned-emaonly.ckpt
v1-5-pruned-emaonly.safetensors v1-inference.yaml model_index.json
feature_extractor/preprocessor_config.json safety_checker/config.json
safety_checker/model.fp16.safetensors safety_checker/model.safetensors
safety_checker/pytorch_model.bin safety_checker/pytorch_model.fp16.bin
scheduler/scheduler_config.json text_encoder/config.json text_encoder/model.fp16.safetensors
text_encoder/model.safetensors text_encoder/pytorch_model.bin tokenizer/merges.txt
tokenizer/special_tokens_map.json tokenizer/tokenizer_config.json tokenizer/vocab.json
unet/config.json unet/diffusion_pytorch_model.bin unet/diffusion_pytorch_model.fp16.bin
unet/diffusion_pytorch_model.fp16.safetensors unet/diffusion_pytorch_model.non_ema.bin
unet/diffusion_pytorch_model.non_ema.safetensors unet/diffusion_pytorch_model.safetensors
vae/config.json vae/diffusion_pytorch_model.bin vae/diffusion_pytorch_model.fp16.safetensors
vae/diffusion_pytorch_model.safetensors
""")
REDUX = paths("""
flux1-redux-dev.safetensors model_index.json feature_extractor/preprocessor_config.json
image_embedder/config.json image_embedder/diffusion_pytorch_model.safetensors
image_encoder/config.json image_encoder/model.safetensors
""")
SDXL_COMPONENTS = ["scheduler", "text_encoder", "tokenizer", "unet", "vae"]
SDXL = paths("""
01.png LICENSE.md README.md model_index.json scheduler/scheduler_config.json
sd_xl_base_1.0.safetensors sd_xl_base_1.0_0.9vae.safetensors
sd_xl_offset_example-lora_1.0.safetensors text_encoder/config.json
text_encoder/flax_model.msgpack text_encoder/model.fp16.safetensors text_encoder/model.onnx
text_encoder/model.safetensors text_encoder/openvino_model.bin text_encoder/openvino_model.xml
tokenizer/vocab.json unet/config.json unet/diffusion_flax_model.msgpack
unet/diffusion_pytorch_model.fp16.safetensors unet/diffusion_pytorch_model.safetensors
unet/model.onnx unet/model.onnx_data unet/openvino_model.bin vae/config.json
vae/diffusion_pytorch_model.fp16.safetensors vae/diffusion_pytorch_model.safetensors
vae_1_0/config.json vae_1_0/diffusion_pytorch_model.safetensors vae_decoder/config.json
vae_decoder/model.onnx vae_encoder/config.json vae_encoder/model.onnx
""")


def listing(*paths: str) -> list[HubFile]:
    return [HubFile(path, 100, Checksum("git", "0" * 40)) for path in paths]


def names(choice: Choice) -> list[str]:
    return [chosen.file.path for chosen in choice.files]


@pytest.mark.parametrize("components", [FLUX_COMPONENTS, None])
def test_of_flux_the_folders_without_the_file_that_holds_the_same(components):
    choice = choose("flux", listing(*FLUX), components=components)
    unwanted = {
        ".gitattributes",
        "LICENSE.md",
        "README.md",
        "ae.safetensors",
        "dev_grid.jpg",
        "flux1-dev.safetensors",
    }
    assert choice.kind is Kind.PIPELINE
    assert sorted(names(choice)) == sorted(set(FLUX) - unwanted)
    assert all(chosen.path == chosen.file.path for chosen in choice.files)
    assert choice.size_bytes == 100 * len(names(choice))


def test_of_stable_diffusion_each_weight_once_and_no_pickle():
    choice = choose("sd15", listing(*SD15))
    weights = [name for name in names(choice) if name.endswith(".safetensors")]
    assert weights == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert not [name for name in names(choice) if name.endswith((".bin", ".ckpt", ".yaml", ".md"))]
    assert "tokenizer/merges.txt" in names(choice)


def test_what_no_recipe_reads_is_left_out_also_before_the_index_is_known():
    folders = {name.partition("/")[0] for name in names(choose("sd15", listing(*SD15)))}
    assert folders == {
        "model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["safety_checker", "image_encoder"])
def test_pickles_that_are_not_read_do_not_matter(name: str):
    unread = [f"{name}/config.json", f"{name}/pytorch_model.bin"]
    files = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"]
    assert names(choose("finetune", listing(*files, *unread))) == files


def test_of_redux_what_looks_at_pictures_is_read():
    choice = choose("redux", listing(*REDUX))
    assert sorted(names(choice)) == sorted(set(REDUX) - {"flux1-redux-dev.safetensors"})


def test_a_variant_is_stored_under_the_name_that_is_looked_for():
    choice = choose("sd15", listing(*SD15), variant="fp16")
    paths = {c.file.path: c.path for c in choice.files if c.path.endswith(".safetensors")}
    assert paths == {
        "text_encoder/model.fp16.safetensors": "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors": "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors": "vae/diffusion_pytorch_model.safetensors",
    }


def test_only_the_components_that_the_model_names():
    chosen = names(choose("sdxl", listing(*SDXL), components=SDXL_COMPONENTS))
    assert not [name for name in chosen if name.startswith("vae_")]
    assert not [name for name in chosen if "onnx" in name or "openvino" in name or "flax" in name]
    assert [name for name in chosen if "/" not in name] == ["model_index.json"]
    assert "unet/diffusion_pytorch_model.safetensors" in chosen


def test_shards_of_a_variant_keep_their_names_and_their_index_gets_the_plain_one():
    shards = [f"text_encoder_3/model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
    plain = [f"text_encoder_3/model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    files = [
        "model_index.json",
        "text_encoder_3/config.json",
        "text_encoder_3/model.safetensors.index.fp16.json",
        "text_encoder_3/model.safetensors.index.json",
        *shards,
        *plain,
    ]
    chosen = {c.file.path: c.path for c in choose("x", listing(*files), variant="fp16").files}
    assert chosen["text_encoder_3/model.safetensors.index.fp16.json"] == (
        "text_encoder_3/model.safetensors.index.json"
    )
    assert [chosen[shard] for shard in shards] == shards
    assert not set(plain) & chosen.keys()
    chosen = {c.file.path: c.path for c in choose("x", listing(*files)).files}
    assert set(plain) <= chosen.keys()
    assert not set(shards) & chosen.keys()


def test_one_whole_file_is_taken_before_its_shards():
    files = [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
    ]
    assert names(choose("x", listing(*files)))[1:] == files[1:3]


def test_the_best_variant_where_there_is_no_plain_one():
    unet = [f"unet/diffusion_pytorch_model.{v}.safetensors" for v in ("non_ema", "fp16")]
    choice = choose("x", listing("model_index.json", "unet/config.json", *unet))
    assert choice.files[-1].file.path == unet[1]
    assert choice.files[-1].path == "unet/diffusion_pytorch_model.safetensors"


def test_a_controlnet_is_one_network():
    files = [
        "README.md",
        "config.json",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.safetensors",
        "images/input.png",
    ]
    choice = choose("control", listing(*files))
    assert choice.kind is Kind.PART
    assert names(choice) == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_a_repository_of_one_file():
    choice = choose("lora", listing("README.md", "sample.png", "style.safetensors"))
    assert (choice.kind, names(choice)) == (Kind.SINGLE, ["style.safetensors"])


def test_of_several_files_one_must_be_named():
    files = listing("README.md", "one.safetensors", "two.safetensors")
    with pytest.raises(NothingToLoad) as refused:
        choose("loras", files)
    assert "one.safetensors, two.safetensors" in refused.value.detail("en")
    assert names(choose_file("loras", files, "two.safetensors")) == ["two.safetensors"]
    with pytest.raises(NothingToLoad):
        choose_file("loras", files, "three.safetensors")
    with pytest.raises(NothingToLoad):
        choose_file("loras", files, "README.md")


@pytest.mark.parametrize(
    "files",
    [
        ["README.md", "model.ckpt"],
        ["config.json", "diffusion_pytorch_model.bin"],
        ["config.json", "pytorch_model.PT"],
        ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.bin"],
        ["annotators/body_pose.pth"],
    ],
)
def test_pickles_alone_are_refused_by_name(files: list[str]):
    with pytest.raises(PickleRefused) as refused:
        choose("someone/old", listing(*files))
    assert refused.value.params["files"] == [files[-1]]
    assert files[-1] in refused.value.detail("en")


def test_a_pickle_that_is_named_is_refused():
    with pytest.raises(PickleRefused):
        choose_file("x", listing("a.safetensors", "b.pt"), "b.pt")


def test_a_repository_of_something_else():
    with pytest.raises(NothingToLoad):
        choose("someone/texts", listing("README.md", "data.parquet"))
