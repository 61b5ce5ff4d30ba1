"""Every mode of every kind of Flux model, on tiny models with random weights.

What a picture shows is the trained models' tests' business. Here: that each mode runs through the
recipe, draws what diffusers' own pipeline draws when it is called with the same arguments, and
leaves no trace.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FluxControlImg2ImgPipeline,
    FluxControlNetImg2ImgPipeline,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxPriorReduxPipeline,
)
from PIL import Image, ImageChops, ImageDraw

from genserve.domain.request import ControlType, GenerationRequest, ImageRole, Mode
from genserve.errors import UnsupportedControl, UnsupportedMask, UnsupportedMode
from genserve.pipelines.base import Cancelled, Stage
from genserve.pipelines.flux import Flux
from genserve.pipelines.flux_modes import modes_of, plan
from tests.pipelines.conftest import Watcher, request
from tests.pipelines.flux_family import FluxFamily

SIZE = 64
STEPS = 4
FILE = {"sha256": "0" * 64, "media_type": "image/png", "width": 64, "height": 64, "size_bytes": 1}


@pytest.fixture(scope="module")
def pictures() -> dict[ImageRole, Image.Image]:
    """One of each role: a gradient, its right half to be painted, a disc, and a tall photo."""
    init = Image.linear_gradient("L").resize((SIZE, SIZE)).convert("RGB")
    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(255, (SIZE // 2, 0, SIZE, SIZE))
    control = Image.new("RGB", (SIZE, SIZE))
    ImageDraw.Draw(control).ellipse((16, 16, 48, 48), outline="white")
    reference = Image.radial_gradient("L").resize((48, 80)).convert("RGB")
    return {
        ImageRole.INIT: init,
        ImageRole.MASK: mask,
        ImageRole.CONTROL: control,
        ImageRole.REFERENCE: reference,
    }


def asks(mode: Mode, control: dict[str, Any] | None = None, **changes: Any) -> GenerationRequest:
    steered = {"file": FILE, "role": "control", "control": control or {}}
    images = [steered] if mode is Mode.CONTROLNET else []
    return request(mode=mode, width=SIZE, height=SIZE, steps=STEPS, images=images, **changes)


def draw(flux: Flux, asked: GenerationRequest, inputs: Any, hook: Watcher | None = None) -> Any:
    return flux.generate(asked, asked.seed or 0, inputs, hook or Watcher())


def only(pictures: dict[ImageRole, Image.Image], *roles: ImageRole) -> dict[ImageRole, Image.Image]:
    return {role: pictures[role] for role in roles}


# What each kind can do: the model, the mode, and which pictures the mode is given

CASES: list[tuple[str, Mode, tuple[ImageRole, ...]]] = [
    ("base", Mode.TEXT2IMG, ()),
    ("base", Mode.IMG2IMG, (ImageRole.INIT,)),
    ("base", Mode.FILL, (ImageRole.INIT, ImageRole.MASK)),
    ("schnell", Mode.TEXT2IMG, ()),
    ("fill", Mode.TEXT2IMG, ()),
    ("fill", Mode.IMG2IMG, (ImageRole.INIT,)),
    ("fill", Mode.FILL, (ImageRole.INIT, ImageRole.MASK)),
    ("control", Mode.CONTROLNET, (ImageRole.CONTROL,)),
    ("control", Mode.CONTROLNET, (ImageRole.CONTROL, ImageRole.INIT)),
    ("openpose", Mode.CONTROLNET, (ImageRole.CONTROL,)),
    ("openpose", Mode.CONTROLNET, (ImageRole.CONTROL, ImageRole.INIT)),
    ("redux", Mode.REDUX, (ImageRole.REFERENCE,)),
    ("kontext", Mode.TEXT2IMG, ()),
    ("kontext", Mode.EDIT, (ImageRole.REFERENCE,)),
]
each_case = pytest.mark.parametrize(
    ("kind", "mode", "roles"),
    CASES,
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else str(value),
)


def plain(pipe: Any, steps: int = STEPS, **given: Any) -> Image.Image:
    """diffusers' own pipeline, called as its documentation says."""
    pipe.set_progress_bar_config(disable=True)
    image: Image.Image = pipe(
        width=SIZE,
        height=SIZE,
        num_inference_steps=steps,
        guidance_scale=3.5,
        generator=torch.Generator("cpu").manual_seed(1),
        **given,
    ).images[0]
    return image


def read(class_: Any, folder: Path, **given: Any) -> Any:
    """As the library reads a folder, in the numbers that a CPU computes in.

    Copied, since it maps files into memory, where what does not begin at a cache line is rounded
    differently.
    """
    return copy.deepcopy(class_.from_pretrained(folder, dtype=torch.float32, **given))


TEXT: dict[str, Any] = {"prompt": "a red cat on a blue background", "max_sequence_length": 32}


PIPELINES: dict[tuple[str, Mode, bool], Any] = {
    ("base", Mode.TEXT2IMG, False): FluxPipeline,
    ("base", Mode.IMG2IMG, True): FluxImg2ImgPipeline,
    ("base", Mode.FILL, True): FluxInpaintPipeline,
    ("schnell", Mode.TEXT2IMG, False): FluxPipeline,
    ("fill", Mode.TEXT2IMG, False): FluxFillPipeline,
    ("fill", Mode.IMG2IMG, True): FluxFillPipeline,
    ("fill", Mode.FILL, True): FluxFillPipeline,
    ("control", Mode.CONTROLNET, False): FluxControlPipeline,
    ("control", Mode.CONTROLNET, True): FluxControlImg2ImgPipeline,
    ("openpose", Mode.CONTROLNET, False): FluxControlNetPipeline,
    ("openpose", Mode.CONTROLNET, True): FluxControlNetImg2ImgPipeline,
    ("kontext", Mode.TEXT2IMG, False): FluxPipeline,
    ("kontext", Mode.EDIT, False): FluxKontextPipeline,
}
"""What draws with which model in which mode, without and with a picture to start from."""
ARGUMENTS = {
    ImageRole.INIT: "image",
    ImageRole.MASK: "mask_image",
    ImageRole.CONTROL: "control_image",
    ImageRole.REFERENCE: "image",
}


def drawn_by_the_library(
    family: FluxFamily, kind: str, mode: Mode, inputs: dict[ImageRole, Image.Image]
) -> Image.Image:
    if mode is Mode.REDUX:
        return _redux(family, inputs[ImageRole.REFERENCE])
    spec = getattr(family, kind)()
    given: dict[str, Any] = {ARGUMENTS[role]: picture for role, picture in inputs.items()}
    more: dict[str, Any] = {"strength": 0.5} if ImageRole.INIT in inputs else {}
    if kind == "fill":
        size = (SIZE, SIZE)
        white = {"image": Image.new("RGB", size), "mask_image": Image.new("L", size, 255)}
        given = white | given
    if mode is Mode.EDIT:
        more = {"max_area": SIZE * SIZE, "_auto_resize": False}
    parts = {}
    if spec.controls:
        (folder,) = spec.controls.values()
        parts["controlnet"] = read(FluxControlNetModel, folder)
    pipeline = PIPELINES[kind, mode, ImageRole.INIT in inputs]
    return plain(read(pipeline, spec.base or spec.folder, **parts), **TEXT, **given, **more)


def _redux(family: FluxFamily, reference: Image.Image) -> Image.Image:
    pipe = read(FluxPipeline, family.base().folder)
    encoders = {name: getattr(pipe, name) for name in ("text_encoder", "text_encoder_2")}
    prior = read(FluxPriorReduxPipeline, family.redux().folder, **encoders)
    with torch.no_grad():
        text, pooled, _ = pipe.encode_prompt(TEXT["prompt"], None, max_sequence_length=32)
    return plain(pipe, **prior(image=reference, prompt_embeds=text, pooled_prompt_embeds=pooled))


@each_case
def test_it_draws_what_the_library_draws(family, load, pictures, kind, mode, roles):
    inputs = only(pictures, *roles)
    strength = 1.0 if mode is Mode.REDUX else 0.5
    ours = draw(load(getattr(family, kind)()), asks(mode, strength=strength), inputs)
    theirs = drawn_by_the_library(family, kind, mode, inputs)
    assert ours.size == (SIZE, SIZE)
    assert ours.tobytes() == theirs.tobytes()


@each_case
def test_the_same_request_draws_the_same_and_another_seed_does_not(
    family, load, pictures, kind, mode, roles
):
    flux, inputs = load(getattr(family, kind)()), only(pictures, *roles)
    first = draw(flux, asks(mode), inputs).tobytes()
    assert draw(flux, asks(mode), inputs).tobytes() == first
    assert draw(flux, asks(mode, seed=2), inputs).tobytes() != first


@each_case
def test_every_picture_it_is_given_counts(family, load, pictures, kind, mode, roles):
    flux, inputs = load(getattr(family, kind)()), only(pictures, *roles)
    asked = asks(mode, strength=0.5)
    drawn = draw(flux, asked, inputs).tobytes()
    for role in roles:
        other = {**inputs, role: inputs[role].transpose(Image.Transpose.ROTATE_90)}
        assert draw(flux, asked, other).tobytes() != drawn, role


@each_case
@pytest.mark.parametrize("scheduler", ["euler", "heun"])
def test_a_cancelled_picture_leaves_no_trace(family, load, pictures, kind, mode, roles, scheduler):
    flux, inputs = load(getattr(family, kind)()), only(pictures, *roles)
    before = draw(flux, asks(mode), inputs).tobytes()
    hook = Watcher(cancel_at=2)
    with pytest.raises(Cancelled):
        draw(flux, asks(mode, scheduler=scheduler), inputs, hook)
    assert Stage.DECODE not in hook.stages
    assert draw(flux, asks(mode), inputs).tobytes() == before


@each_case
@pytest.mark.parametrize("scheduler", ["euler", "heun"])
def test_strength_is_the_share_of_steps_where_a_picture_is_redrawn(
    family, load, pictures, kind, mode, roles, scheduler
):
    hook, inputs = Watcher(), only(pictures, *roles)
    asked = asks(mode, strength=0.5, scheduler=scheduler)
    draw(load(getattr(family, kind)()), asked, inputs, hook)
    steps = STEPS // 2 if ImageRole.INIT in roles else STEPS
    assert hook.steps[-1] == (steps, steps)


@each_case
def test_less_than_a_step_begins_near_the_picture(family, load, pictures, kind, mode, roles):
    """Where it begins at noise alone, strength has no say."""
    inputs, redraws = only(pictures, *roles), ImageRole.INIT in roles
    asked = asks(mode, strength=0.05)
    for steps in (1, STEPS):
        parts = load(getattr(family, kind)())._parts
        levels = plan(parts, asked.model_copy(update={"steps": steps}), inputs).levels
        assert levels == [0.05] if redraws else levels[0] == 1, steps


@pytest.mark.parametrize("steps", [1, STEPS])
@pytest.mark.parametrize("mode", [Mode.IMG2IMG, Mode.FILL])
def test_less_than_a_step_is_the_librarys_of_a_finer_schedule(family, load, pictures, mode, steps):
    inputs = only(pictures, ImageRole.INIT, *[ImageRole.MASK] * (mode is Mode.FILL))
    asked = asks(mode, strength=0.05).model_copy(update={"steps": steps})
    ours = draw(load(family.base()), asked, inputs)
    given = {ARGUMENTS[role]: picture for role, picture in inputs.items()}
    pipe = read(PIPELINES["base", mode, True], family.base().folder)
    theirs = plain(pipe, 20, **TEXT, **given, strength=0.05)
    assert ours.tobytes() == theirs.tobytes()


def test_the_cases_are_all_that_the_kinds_can_do(family, load):
    able = {
        (kind, mode)
        for kind in ("base", "fill", "control", "openpose", "redux", "kontext")
        for mode in modes_of(load(getattr(family, kind)())._parts)
    }
    tried = {(kind, mode) for kind, mode, _ in CASES}
    lent_by_the_base = {
        (kind, mode)
        for kind in ("openpose", "redux")
        for mode in (Mode.TEXT2IMG, Mode.IMG2IMG, Mode.FILL)
    }
    assert able - lent_by_the_base == tried - {("schnell", Mode.TEXT2IMG)}


@pytest.mark.parametrize(
    ("kind", "mode", "told"),
    [
        ("base", Mode.EDIT, "it supports: text2img, img2img, fill"),
        ("base", Mode.CONTROLNET, "it supports: text2img, img2img, fill"),
        ("fill", Mode.CONTROLNET, "it supports: text2img, img2img, fill"),
        ("control", Mode.TEXT2IMG, "it supports: controlnet"),
        ("kontext", Mode.FILL, "it supports: text2img, edit"),
        ("base", Mode.UPSCALE, "it supports: text2img, img2img, fill"),
    ],
)
def test_what_a_kind_cannot_do_is_told(family, load, kind, mode, told):
    with pytest.raises(UnsupportedMode, match=told):
        draw(load(getattr(family, kind)()), asks(mode), {})


@pytest.mark.parametrize("kind", ["control", "openpose"])
def test_a_mask_beside_a_control_picture_is_refused(family, load, pictures, kind):
    inputs = only(pictures, ImageRole.CONTROL, ImageRole.INIT, ImageRole.MASK)
    with pytest.raises(UnsupportedMask, match="leave `mask_image` out"):
        draw(load(getattr(family, kind)()), asks(Mode.CONTROLNET), inputs)


def test_an_edited_picture_has_the_size_that_is_asked_for(family, load, pictures):
    asked = asks(Mode.EDIT).model_copy(update={"width": 80, "height": 48})
    assert draw(load(family.kontext()), asked, only(pictures, ImageRole.REFERENCE)).size == (80, 48)


# Fill


def test_what_lies_below_does_not_count_when_all_is_filled_from_text(family, load, pictures):
    """A fill model draws from text alone; the picture under its white mask has no say."""
    flux = load(family.fill())
    white = Image.new("L", (SIZE, SIZE), 255)
    filled = [
        draw(flux, asks(Mode.FILL, strength=1.0), {ImageRole.INIT: init, ImageRole.MASK: white})
        for init in (pictures[ImageRole.INIT], pictures[ImageRole.CONTROL])
    ]
    assert filled[0].tobytes() == filled[1].tobytes()
    assert filled[0].tobytes() == draw(flux, asks(Mode.TEXT2IMG), {}).tobytes()


def test_a_base_model_keeps_the_latents_outside_of_the_mask(family, load, pictures):
    """The VAE's group norms carry a little of the filled half over to the other.

    That the caller gets back their own pixels is put right later, at the output's size.
    """
    flux, inputs = load(family.base()), only(pictures, ImageRole.INIT, ImageRole.MASK)
    nothing = {**inputs, ImageRole.MASK: Image.new("L", (SIZE, SIZE))}
    kept = draw(flux, asks(Mode.FILL, strength=1.0), nothing)
    filled = draw(flux, asks(Mode.FILL, strength=1.0), inputs)
    left, right = (0, 0, SIZE // 4, SIZE), (SIZE * 3 // 4, 0, SIZE, SIZE)
    left_alone = _difference(filled.crop(left), kept.crop(left))
    assert _difference(filled.crop(right), kept.crop(right)) > 5 * left_alone


def _difference(one: Image.Image, other: Image.Image) -> float:
    """Mean over pixels and colours, 0-255."""
    pixels = list(ImageChops.difference(one, other).convert("RGB").tobytes())
    return sum(pixels) / len(pixels)


# ControlNets


def test_weight_and_range_of_a_control_count(family, load, pictures):
    flux, inputs = load(family.openpose()), only(pictures, ImageRole.CONTROL)
    full = draw(flux, asks(Mode.CONTROLNET), inputs).tobytes()
    half = draw(flux, asks(Mode.CONTROLNET, {"weight": 0.5}), inputs).tobytes()
    early = draw(flux, asks(Mode.CONTROLNET, {"end": 0.5}), inputs).tobytes()
    none = draw(flux, asks(Mode.CONTROLNET, {"weight": 0.0}), inputs).tobytes()
    never = draw(flux, asks(Mode.CONTROLNET, {"start": 1.0}), inputs).tobytes()
    assert len({full, half, early, none}) == 4
    assert none == never
    other = {ImageRole.CONTROL: pictures[ImageRole.INIT]}
    assert draw(flux, asks(Mode.CONTROLNET), other).tobytes() != full
    assert draw(flux, asks(Mode.CONTROLNET, {"weight": 0.0}), other).tobytes() == none


def test_a_union_is_told_which_of_its_modes(family, load, pictures):
    union = family.openpose(modes=10)
    folder = union.controls[ControlType.OPENPOSE]
    both = {ControlType.OPENPOSE: folder, ControlType.DEPTH: folder}
    flux = load(union.model_copy(update={"controls": both, "id": "union"}))
    inputs = only(pictures, ImageRole.CONTROL)
    drawn = [
        draw(flux, asks(Mode.CONTROLNET, {"type": kind}), inputs).tobytes()
        for kind in ("openpose", "depth")
    ]
    assert drawn[0] != drawn[1]
    assert [name for name in flux.parts() if name.startswith("controlnet")] == ["controlnet"]


def test_a_controlnet_that_looks_at_pixels_is_used_too(family, load, pictures):
    """XLabs' kind, with a hint block of its own instead of the VAE."""
    flux, inputs = load(family.openpose(hint=16)), only(pictures, ImageRole.CONTROL)
    plainly = draw(flux, asks(Mode.TEXT2IMG), {}).tobytes()
    assert draw(flux, asks(Mode.CONTROLNET), inputs).tobytes() != plainly


def test_a_control_type_that_the_model_lacks_is_told(family, load, pictures):
    with pytest.raises(UnsupportedControl, match="it supports: openpose"):
        draw(
            load(family.openpose()),
            asks(Mode.CONTROLNET, {"type": "depth"}),
            only(pictures, ImageRole.CONTROL),
        )


# Redux


def test_strength_says_how_much_the_reference_counts(family, load, pictures):
    flux, inputs = load(family.redux()), only(pictures, ImageRole.REFERENCE)
    drawn = {draw(flux, asks(Mode.REDUX, strength=s), inputs).tobytes() for s in (0.0, 0.5, 1.0)}
    assert len(drawn) == 3
    turned = {ImageRole.REFERENCE: inputs[ImageRole.REFERENCE].transpose(Image.Transpose.ROTATE_90)}
    silent = [draw(flux, asks(Mode.REDUX, strength=0.0), i).tobytes() for i in (inputs, turned)]
    assert silent[0] == silent[1]


def test_the_prompt_counts_beside_the_reference(family, load, pictures):
    flux, inputs = load(family.redux()), only(pictures, ImageRole.REFERENCE)
    drawn = {draw(flux, asks(Mode.REDUX, prompt=p), inputs).tobytes() for p in ("a cat", "a lake")}
    assert len(drawn) == 2
