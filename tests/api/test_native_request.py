"""From the native API's fields to the common request: defaults, types, ranges, hints."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genserve.api.dialects.native import check, to_request
from genserve.api.dialects.native_models import SYNONYMS, GenerateBody, GenerateFields, from_form
from genserve.api.problems import checked
from genserve.config import Api
from genserve.domain.request import ControlType, FileRef, GenerationRequest, ImageRole, Mode
from genserve.errors import MissingImage, UnknownMode, ValidationFailed

FILE = FileRef(sha256="0" * 64, media_type="image/png", width=8, height=8, size_bytes=80)


def body(**fields: Any) -> GenerateBody:
    return checked(GenerateBody, {"prompt": "a cat"} | fields, "en", synonyms=SYNONYMS)


def request(fields: GenerateFields, **files: FileRef) -> GenerationRequest:
    return to_request(fields, files, embed_metadata=True)


def problems(**fields: Any) -> str:
    with pytest.raises(ValidationFailed) as caught:
        body(**fields)
    return str(caught.value)


def test_the_documented_defaults() -> None:
    asked = request(body())
    assert (asked.model, asked.mode, asked.seed) == ("flux1-dev", Mode.TEXT2IMG, 42)
    assert (asked.width, asked.height, asked.steps, asked.guidance) == (1024, 1024, 50, 3.5)
    assert (asked.count, asked.output.format, asked.output.metadata) == (1, "png", True)
    assert (asked.strength, asked.scheduler, asked.loras) == (None, None, ())


def test_another_model_has_its_own_defaults() -> None:
    """The documented ones are the default model's, whose own are the same."""
    other = request(body(model_id="sdxl"))
    assert (other.width, other.height, other.steps, other.guidance) == (None,) * 4
    told = request(body(model_id="sdxl", width=768, cfg=5))
    assert (told.width, told.height, told.guidance) == (768, None, 5)


def test_how_to_sample_is_passed_on() -> None:
    asked = request(body(scheduler="DPM++ 2M", sigmas="karras", clip_skip=2, vae="soft"))
    assert (asked.scheduler, asked.sigmas) == ("DPM++ 2M", "karras")
    assert (asked.clip_skip, asked.vae) == (2, "soft")
    form = {"prompt": "x", "sigmas": "", "clip_skip": "2", "vae": "", "control_weight": "0.5"}
    fields = from_form(form)
    read = checked(GenerateFields, fields, "en", synonyms=SYNONYMS)
    assert (read.sigmas, read.clip_skip, read.vae, read.control_weight) == (None, 2, None, 0.5)


def test_a_control_picture_is_followed_as_asked() -> None:
    told = body(mode="controlnet", control_weight=0.5, control_start=0.1, control_end=0.9)
    control = request(told, control_image=FILE).images[0].control
    assert control is not None
    assert (control.weight, control.start, control.end) == (0.5, 0.1, 0.9)
    made = body(mode="controlnet", preprocess=True, controlnet_type="canny", control_weight=0)
    control = request(made, control_image=FILE).images[0].control
    assert control is not None
    assert (control.preprocess, control.weight, control.end) == (True, 0.0, 1.0)


@pytest.mark.parametrize(("given", "seed"), [(0, 0), (None, None), (-1, None), (2**32 - 1,) * 2])
def test_null_and_minus_one_draw_a_seed(given: int | None, seed: int | None) -> None:
    assert request(body(seed=given)).seed == seed


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": ""}, "prompt: must not be empty"),
        ({"prompt": " \n"}, "prompt: must not be empty"),
        ({"prompt": None}, "prompt: must be a text"),
        ({"prompt": "a\0b"}, "prompt: must not hold NUL"),
        ({"prompt": "\ud800"}, "prompt: must not hold NUL or unpaired"),
        ({"num_inference_steps": 0}, "num_inference_steps: must be at least 1"),
        ({"num_inference_steps": 101}, "num_inference_steps: must be at most 100"),
        ({"num_inference_steps": "50"}, "num_inference_steps: must be a whole number"),
        ({"num_inference_steps": 50.5}, "num_inference_steps: must be a whole number"),
        ({"num_inference_steps": True}, "num_inference_steps: must be a whole number"),
        ({"cfg": -0.1}, "cfg: must be at least 0"),
        ({"cfg": 50.1}, "cfg: must be at most 50"),
        ({"cfg": float("inf")}, "cfg: must be a number"),
        ({"cfg": "3.5"}, "cfg: must be a number"),
        ({"cfg": False}, "cfg: must be a number"),
        ({"width": None}, "width: must be a whole number"),
        ({"height": -8}, "height: must be at least 1"),
        ({"seed": 2**32}, "seed: must be at most 4294967295"),
        ({"seed": -2}, "seed: must be at least -1"),
        ({"strength": 1.1}, "strength: must be at most 1"),
        ({"priority": 101}, "priority: must be at most 100"),
        ({"num_images": 11}, "num_images: must be at most 10"),
        ({"output_format": "gif"}, "output_format: must be one of png, jpg, webp"),
        ({"controlnet_type": "x"}, "controlnet_type: must be one of depth, canny, openpose"),
        ({"embed_metadata": 1}, "embed_metadata: must be true or false"),
        ({"async": "yes"}, "async: must be true or false"),
        ({"sigmas": "x"}, "sigmas: must be one of karras, exponential, beta"),
        ({"clip_skip": 13}, "clip_skip: must be at most 12"),
        ({"clip_skip": 1.5}, "clip_skip: must be a whole number"),
        ({"vae": 1}, "vae: must be a text"),
        ({"control_weight": 2.1}, "control_weight: must be at most 2"),
        ({"control_end": 1.1}, "control_end: must be at most 1"),
        ({"noise_schedule": "karras"}, "did you mean sigmas?"),
        ({"loras": {}}, "loras: must be a list"),
        ({"loras": ["x"]}, "loras.0: must be an object"),
        ({"loras": [{"weight": 1}]}, "loras.0.name: is required"),
        ({"loras": [{"name": "x", "w": 1}]}, "loras.0.w: is not a field"),
        ({"loras": [{"name": "x"}] * 33}, "loras: must have at most 32"),
        ({"promt": "x"}, "promt: is not a field; did you mean prompt?"),
        ({"steps": 3}, "steps: is not a field; did you mean num_inference_steps?"),
        ({"guidance_scale": 3}, "guidance_scale: is not a field; did you mean cfg?"),
        ({"respond_async": True}, "respond_async: is not a field"),
        ({"xyzzy": 1}, "xyzzy: is not a field"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], words: str) -> None:
    assert words in problems(**fields)


def test_every_wrong_field_is_named_at_once() -> None:
    told = problems(cfg="x", width=0, promt="y")
    assert all(name in told for name in ("cfg", "width", "promt"))


def test_a_missing_prompt_is_named() -> None:
    with pytest.raises(ValidationFailed, match="prompt: is required"):
        checked(GenerateBody, {}, "en")
    with pytest.raises(ValidationFailed, match="prompt") as caught:
        checked(GenerateBody, {}, "zh")
    assert caught.value.params["problems"] == ["prompt：必填"]


def test_prompts_have_a_configured_length() -> None:
    limits = Api(max_prompt_chars=5)
    check(body(prompt="五个字符了"), (), limits, "en")
    with pytest.raises(ValidationFailed, match="prompt: must have at most 5 characters"):
        check(body(prompt="123456"), (), limits, "en")


def test_modes_take_the_pictures_of_the_document() -> None:
    limits = Api()
    with pytest.raises(UnknownMode, match="text2img, img2img, fill, controlnet, redux"):
        check(body(mode="upscale"), (), limits, "en")
    with pytest.raises(MissingImage, match="mask_image"):
        check(body(mode="fill"), ["input_image"], limits, "en")
    with pytest.raises(ValidationFailed, match="mask_image: mode img2img does not take it"):
        check(body(mode="img2img"), ["input_image", "mask_image"], limits, "en")
    with pytest.raises(ValidationFailed, match="controlnet_type: mode text2img does not"):
        check(body(controlnet_type="depth"), (), limits, "en")


def test_strength_is_refused_where_it_would_count_for_nothing() -> None:
    limits = Api()
    for mode, sent in (("text2img", []), ("edit", ["input_image"])):
        with pytest.raises(ValidationFailed, match=f"strength: mode {mode} does not take it"):
            check(body(mode=mode, strength=0.5), sent, limits, "en")
        check(body(mode=mode), sent, limits, "en")
    steered = body(mode="controlnet", strength=0.5)
    with pytest.raises(ValidationFailed, match="strength: counts only beside input_image"):
        check(steered, ["control_image"], limits, "en")
    check(steered, ["control_image", "input_image"], limits, "en")
    for mode, sent in (
        ("img2img", ["input_image"]),
        ("fill", ["input_image", "mask_image"]),
        ("redux", ["input_image"]),
    ):
        check(body(mode=mode, strength=0.5), sent, limits, "en")


def test_a_forms_empty_strength_is_none() -> None:
    fields = from_form({"prompt": "x", "strength": ""})
    assert checked(GenerateFields, fields, "en").strength is None


def test_a_mask_beside_a_control_picture_needs_the_picture() -> None:
    with pytest.raises(ValidationFailed, match="mask_image: counts only beside input_image"):
        check(body(mode="controlnet"), ["control_image", "mask_image"], Api(), "en")
    pictures = {name: FILE for name in ("control_image", "input_image", "mask_image")}
    check(body(mode="controlnet"), pictures, Api(), "en")
    asked = request(body(mode="controlnet"), **pictures)
    roles = {ImageRole.CONTROL, ImageRole.INIT, ImageRole.MASK}
    assert {image.role for image in asked.images} == roles


def test_pictures_get_their_roles() -> None:
    fill = request(body(mode="fill"), input_image=FILE, mask_image=FILE)
    assert [image.role for image in fill.images] == [ImageRole.INIT, ImageRole.MASK]
    redux = request(body(mode="redux"), input_image=FILE)
    assert [image.role for image in redux.images] == [ImageRole.REFERENCE]
    control = request(body(mode="controlnet", controlnet_type="canny"), control_image=FILE)
    assert control.images[0].control is not None
    assert control.images[0].control.type is ControlType.CANNY
    edit = request(body(mode="edit"), input_image=FILE)
    assert [image.role for image in edit.images] == [ImageRole.REFERENCE]
    redrawn = request(body(mode="controlnet"), control_image=FILE, input_image=FILE)
    assert {image.role for image in redrawn.images} == {ImageRole.CONTROL, ImageRole.INIT}
    check(body(mode="controlnet"), ["control_image", "input_image"], Api(), "en")
    silent = request(body(mode="controlnet"), control_image=FILE)
    assert silent.images[0].control is not None
    assert silent.images[0].control.type is None


def test_the_servers_word_on_metadata_is_only_a_default() -> None:
    assert not to_request(body(), {}, embed_metadata=False).output.metadata
    assert to_request(body(embed_metadata=True), {}, embed_metadata=False).output.metadata
    assert request(body(output_format="jpeg")).output.format == "jpg"


FIELDS = st.fixed_dictionaries(
    {"prompt": st.text("a猫 ", min_size=1).filter(str.strip)},
    optional={
        "width": st.integers(1, 4096),
        "num_inference_steps": st.integers(1, 100),
        "cfg": st.floats(0, 50),
        "seed": st.integers(-1, 2**32 - 1),
        "priority": st.integers(-100, 100),
        "strength": st.floats(0, 1),
        "num_images": st.integers(1, 10),
        "embed_metadata": st.booleans(),
        "async": st.booleans(),
        "output_format": st.sampled_from(["png", "jpg", "jpeg", "webp"]),
    },
)


@given(FIELDS)
def test_a_form_asks_for_the_same_as_json(fields: dict[str, Any]) -> None:
    in_form = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in fields.items()
    }
    from_json = checked(GenerateBody, fields, "en")
    assert request(checked(GenerateFields, from_form(in_form), "en")) == request(from_json)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("width", "5_0"),
        ("width", "٥"),
        ("width", "1e3"),
        ("cfg", "nan"),
        ("cfg", "inf"),
        ("seed", "x"),
        ("embed_metadata", "maybe"),
        ("num_images", "1.0"),
        ("cfg", ""),
    ],
)
def test_a_forms_numbers_are_plain(field: str, text: str) -> None:
    with pytest.raises(ValidationFailed, match=field):
        checked(GenerateFields, from_form({"prompt": "x", field: text}), "en")
