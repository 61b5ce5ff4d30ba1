"""What the members' model cards tell besides figures."""

from __future__ import annotations

from collections.abc import Mapping

from .member_card import Story

_COMMAND = "python scripts/train_tiny/train.py {} --seed 0"
_DATA = (
    "8,000 drawings in five aspect ratios, anywhere near the places that captions name and in"
    " either direction, so that the given picture says where things are; captions mostly leave"
    " place and size out."
)
_CONTROL = (
    "{steps} steps of 32 through the frozen base: rectified flow, as for the base itself. Guidance"
    " is fed at random and means little here."
)
_CONTROL_USAGE = """
import torch
from diffusers import {pipeline}
from diffusers.utils import load_image

pipeline = {pipeline}.from_pretrained("models/tiny-flux-dev", dtype=torch.float32)
pipeline.load_lora_weights("models/{folder}")
pipeline(
    "{prompt}",
    {given},
    width=128,
    height=128,
    num_inference_steps=20,
    max_sequence_length=32,
).images[0].save("out.png")
"""


def _control_story(
    kind: str, given: str, summary: str, steps: str, data: str = _DATA, *more: str
) -> Story:
    folder = f"tiny-flux-{kind}"
    pipeline = "FluxFillPipeline" if kind == "fill" else "FluxControlPipeline"
    return Story(
        title=folder,
        summary=(
            f"{summary} A Control-LoRA for `tiny-flux-dev`, in the layout of FLUX.1's: the base"
            " transformer's input is widened and its layers get low-rank changes. The base is"
            " needed beside it."
        ),
        usage=_CONTROL_USAGE.format(
            pipeline=pipeline, folder=folder, given=given, prompt="a red cat on a blue background"
        ),
        training=(data, _CONTROL.format(steps=steps), *more),
        command=_COMMAND.format(f"flux-{kind}"),
        sheet="Above what was given, below what was drawn of it and a prompt.",
    )


STORIES: Mapping[str, Story] = {
    "depth": _control_story(
        "depth",
        'control_image=load_image("depth.png")',
        "Draws what a depth map (near is bright) and a prompt say.",
        "3,000",
    ),
    "canny": _control_story(
        "canny",
        'control_image=load_image("edges.png")',
        "Draws what an edge map (white on black, OpenCV's Canny) and a prompt say.",
        "2,000",
    ),
    "fill": _control_story(
        "fill",
        'image=load_image("picture.png"),\n    mask_image=load_image("mask.png")',
        "Paints what a prompt says where a mask is white, to match what lies around. The figures"
        " are of boxes at the places that captions name; elsewhere shapes are rougher.",
        "3,500",
        "8,000 drawings in five aspect ratios, two thirds of them with their subject at the places"
        " that captions name; masks are boxes, ellipses and blobs at random, the subject's own"
        " shape, a box around it, or everything.",
        "700 steps more distil guidance: with and without the caption, the result of the steps"
        " before gives the guided velocity that is to come out at once.",
    ),
    "openpose": Story(
        title="tiny-flux-openpose",
        summary=(
            "A `FluxControlNetModel` of 1.2 million parameters for `tiny-flux-dev`: draws a person"
            " in the pose of a skeleton picture, in OpenPose's 18 joints and colours."
        ),
        usage="""
import torch
from diffusers import FluxControlNetModel, FluxControlNetPipeline
from diffusers.utils import load_image

controlnet = FluxControlNetModel.from_pretrained("models/tiny-flux-openpose", dtype=torch.float32)
pipeline = FluxControlNetPipeline.from_pretrained(
    "models/tiny-flux-dev", controlnet=controlnet, dtype=torch.float32
)
pipeline(
    "a person in red on a blue background",
    control_image=load_image("skeleton.png"),
    width=128,
    height=128,
    num_inference_steps=20,
    max_sequence_length=32,
).images[0].save("person.png")
""",
        training=(
            "8,000 drawings of persons, most of them in poses at random that no caption names.",
            _CONTROL.format(steps="4,000"),
        ),
        command=_COMMAND.format("flux-openpose"),
        sheet="Above the skeletons, below what was drawn of them and a prompt.",
    ),
    "redux": Story(
        title="tiny-flux-redux",
        summary=(
            "A small SigLIP and Redux' projection, in the folder layout of FLUX.1 Redux [dev]:"
            " turns a picture into 64 words, behind which `tiny-flux-dev` draws the same subject in"
            " the same colours without a prompt."
        ),
        usage="""
import torch
from diffusers import FluxPipeline, FluxPriorReduxPipeline
from diffusers.utils import load_image

# FluxPriorReduxPipeline has FLUX.1's widths written in: take its parts, as GenServe does
prior = FluxPriorReduxPipeline.from_pretrained("models/tiny-flux-redux", dtype=torch.float32)
pipeline = FluxPipeline.from_pretrained("models/tiny-flux-dev", dtype=torch.float32)
with torch.no_grad():
    seen = prior.encode_image(load_image("picture.png"), "cpu", 1)
    words = prior.image_embedder(seen).image_embeds
    text, pooled, _ = pipeline.encode_prompt("", None, max_sequence_length=32)
pipeline(
    prompt_embeds=torch.cat([text, words], dim=1),
    pooled_prompt_embeds=pooled,
    width=128,
    height=128,
    num_inference_steps=20,
).images[0].save("out.png")
""",
        training=(
            "Drawings in five aspect ratios, squeezed to 96 x 96 pixels.",
            "3,500 steps of 64 fresh drawings: each word is to be what the base's T5 makes of a"
            " word of a plain caption.",
            "1,000 steps of 32 out of 4,000 drawings: told only the picture's words, the frozen"
            " base is to predict what it predicts when told the caption, at the same noise and"
            " guidance.",
        ),
        command=_COMMAND.format("flux-redux"),
        sheet="Above the references, below what was drawn of them without a prompt.",
    ),
}


def _sd_control_story(kind: str, given: str, summary: str) -> Story:
    folder = f"tiny-sd15-{kind}"
    return Story(
        title=folder,
        summary=(
            f"{summary} A `ControlNetModel` of 0.4 million parameters for `tiny-sd15`: the UNet's"
            " way down without its attention."
        ),
        usage=f"""
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

controlnet = ControlNetModel.from_pretrained("models/{folder}", dtype=torch.float32)
pipeline = StableDiffusionControlNetPipeline.from_pretrained(
    "models/tiny-sd15", controlnet=controlnet, dtype=torch.float32
)
pipeline(
    "a red cat on a blue background",
    image=load_image("{given}.png"),
    width=128,
    height=128,
    num_inference_steps=25,
    guidance_scale=3.5,
).images[0].save("out.png")
""",
        training=(_DATA, "3,000 steps of 32 beside the frozen UNet, predicting its noise."),
        command=_COMMAND.format(f"sd15-{kind}"),
        took=(
            "Training took 28 minutes on one CPU thread, while the other ControlNet was trained on"
            " another, beside other work."
        ),
        sheet="Above what was given, below what was drawn of it and a prompt.",
    )


SD_STORIES: Mapping[str, Story] = {
    "sd15": Story(
        title="tiny-sd15",
        summary=(
            "A real Stable Diffusion 1.5 (`UNet2DConditionModel`, `CLIPTextModel`,"
            " `AutoencoderKL`) of 3.1 million parameters that draws simple captioned pictures of"
            " about 128 x 128 pixels, with classifier-free guidance and negative prompts. The noise"
            " schedulers `pndm` and `lms` want a guidance of 4 at most: colours burn out at 7.5."
            " It was trained from scratch on drawings made by this repository's own code. What it"
            " can draw is what `tiny-flux-dev` can."
        ),
        usage="""
import torch
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("models/tiny-sd15", dtype=torch.float32)
pipeline(
    "a red cat on a blue background",
    width=128,
    height=128,
    num_inference_steps=25,
    guidance_scale=3.5,
).images[0].save("cat.png")
""",
        training=(
            "VAE, 3,500 steps: that of `tiny-flux-dev` with 4 channels.",
            "Text encoder, 800 steps: it learns to name what a caption says.",
            "UNet, 6,000 steps of 32 on 16,000 drawings in five aspect ratios, predicting noise;"
            " a tenth of the captions is empty, and some are a tag or two, as negative prompts are."
            " Times of little noise count less (min-SNR).",
        ),
        command=_COMMAND.format("sd15"),
        took="Training took 98 minutes on one CPU thread, beside other work.",
        sheet="Drawn from prompts of scenes that were never shown.",
    ),
    "sdxl": Story(
        title="tiny-sdxl",
        summary=(
            "A real Stable Diffusion XL (`UNet2DConditionModel`, two text encoders, sizes told to"
            " the UNet) of 2 million parameters, on the VAE and the text encoder of `tiny-sd15`."
            " What it can draw is what `tiny-flux-dev` can."
        ),
        usage="""
import torch
from diffusers import StableDiffusionXLPipeline

pipeline = StableDiffusionXLPipeline.from_pretrained("models/tiny-sdxl", dtype=torch.float32)
pipeline(
    "a red cat on a blue background",
    width=128,
    height=128,
    num_inference_steps=25,
    guidance_scale=3.5,
).images[0].save("cat.png")
""",
        training=(
            "Second text encoder, 800 steps: it learns to name what a caption says, at its last"
            " layer but one and in its projection.",
            "UNet, 9,000 steps of 32 on 16,000 drawings in five aspect ratios, as for `tiny-sd15`;"
            " without a caption all that it is told is zeros.",
        ),
        command=_COMMAND.format("sdxl"),
        took=(
            "Training took about 75 minutes on one CPU thread, beside other work: 2 to 2.5 steps of"
            " the UNet a second, which on two threads are 2.7."
        ),
        sheet="Drawn from prompts of scenes that were never shown.",
    ),
    "canny": _sd_control_story(
        "canny",
        "edges",
        "Draws what an edge map (white on black, OpenCV's Canny) and a prompt say.",
    ),
    "depth": _sd_control_story(
        "depth", "depth", "Draws what a depth map (near is bright) and a prompt say."
    ),
}
