"""Tiny Stable Diffusion models with random weights, built from their configurations on disk.

They draw nothing that makes sense, but every network of the real ones is in them, so a recipe can
be compared with diffusers' own pipelines. Their tokenizers know single letters only: a text of
more than 75 letters is a long one.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

WIDTH, WIDE = 32, 48
"""Of the text encoders' vectors. The second one's differs, as CLIP-G's does from CLIP-L's."""
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def clip_tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """Every letter is a token; 77 in all."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(f"{one}</w>" for one in alphabet)]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=numbers, merges=[], model_max_length=77, pad_token=pad)


def t5_tokenizer() -> T5TokenizerFast:
    """Every letter is a token."""
    letters = [(letter, -2.0) for letter in "▁abcdefghijklmnopqrstuvwxyz0123456789,.:;!()[]"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)


def clip(kind: Any, *, width: int = WIDTH, layers: int = 4, act: str = "quick_gelu") -> Any:
    """A text encoder whose words differ visibly: random ones are nearly equal otherwise."""
    encoder = kind(
        CLIPTextConfig(
            vocab_size=514,
            hidden_size=width,
            intermediate_size=37,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
            hidden_act=act,
        )
    )
    with torch.no_grad():
        encoder.get_input_embeddings().weight.normal_(std=1.0)
    return encoder


def vae(channels: int = 4, **config: Any) -> AutoencoderKL:
    """Halves the sides once."""
    return AutoencoderKL(
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        sample_size=32,
        **config,
    )


def unet(**config: Any) -> UNet2DConditionModel:
    """Two levels, with attention in both."""
    values: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "norm_num_groups": 8,
        "layers_per_block": 2,
        "sample_size": 64,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
    }
    return UNet2DConditionModel(**(values | config))


def build_sd15(folder: Path, **unet_config: Any) -> Path:
    """A Stable Diffusion 1.5, all in one folder."""
    torch.manual_seed(15)
    pipe = StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip(CLIPTextModel),
        tokenizer=clip_tokenizer(),
        unet=unet(**unet_config),
        scheduler=PNDMScheduler(skip_prk_steps=True, **SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


SDXL_UNET: dict[str, Any] = {
    "cross_attention_dim": WIDTH + WIDE,
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "transformer_layers_per_block": (1, 2),
    "projection_class_embeddings_input_dim": WIDE + 6 * 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}


def build_sdxl(folder: Path, **unet_config: Any) -> Path:
    """A Stable Diffusion XL."""
    torch.manual_seed(10)
    scheduler = PNDMScheduler(skip_prk_steps=True, timestep_spacing="leading", **SCHEDULER)
    pipe = StableDiffusionXLPipeline(
        vae=vae(force_upcast=True),
        text_encoder=clip(CLIPTextModel),
        text_encoder_2=clip(CLIPTextModelWithProjection, width=WIDE, layers=5, act="gelu"),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(pad="!"),
        unet=unet(**(SDXL_UNET | unet_config)),
        scheduler=scheduler,
        add_watermarker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def build_sd3(folder: Path) -> Path:
    """A Stable Diffusion 3.5 with all of its three text encoders."""
    torch.manual_seed(3)
    t5 = T5EncoderModel(
        T5Config(vocab_size=60, d_model=96, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    )
    with torch.no_grad():
        t5.get_input_embeddings().weight.normal_(std=1.0)
    clip_l = clip(CLIPTextModelWithProjection)
    with torch.no_grad():
        clip_l.text_projection.weight.copy_(torch.eye(WIDTH))  # as in SD3, whose files leave it out
    pipe = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=96,
            caption_projection_dim=32,
            pooled_projection_dim=WIDTH + WIDE,
            out_channels=16,
            pos_embed_max_size=96,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(16, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609),
        text_encoder=clip_l,
        text_encoder_2=clip(CLIPTextModelWithProjection, width=WIDE, layers=5, act="gelu"),
        text_encoder_3=t5,
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(pad="!"),
        tokenizer_3=t5_tokenizer(),
    )
    pipe.save_pretrained(folder)
    return folder


def build_controlnet(folder: Path, model: Path) -> Path:
    """A ControlNet for that model's UNet. Untrained ones add nothing, so its weights are random."""
    torch.manual_seed(7)
    base = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    network = ControlNetModel.from_unet(
        base,
        conditioning_embedding_out_channels=(8, 16),  # halves the sides once, as the VAE does
        load_weights_from_unet=False,
    )
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(std=0.1)
    network.save_pretrained(folder)
    return folder


def edit_json(file: Path, **changes: Any) -> None:
    """Change values of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
