"""Small pipelines whose weights follow from their names alone, for numbers that other tools made on them once.

Random weights drawn in the order of construction would be others with the next version of diffusers. Nothing here
imports ovam: the scripts in `data/` run it beside a package of the same name.
"""

import zlib
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModelWithProjection

import tiny


def settle(pipe: Any) -> Any:
    """Give every weight a value drawn from its name."""
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
            for name, weight in part.named_parameters():
                _fill(name, weight)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def _fill(name: str, weight: torch.Tensor) -> None:
    drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if weight.ndim > 1:
        weight.copy_(drawn / weight[0].numel() ** 0.5)
    else:
        weight.copy_(0.1 * drawn + (1.0 if name.endswith("weight") else 0.0))


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
    )


def sd() -> StableDiffusionPipeline:
    """Of 512 pixels, as Stable Diffusion 1: grids of 64, 32 and 16, 8 in the middle, and heads that differ by level."""
    words = tiny.tokenizer()
    unet = UNet2DConditionModel(
        sample_size=64,
        layers_per_block=1,
        norm_num_groups=4,
        block_out_channels=(8, 16, 16, 16),
        attention_head_dim=(2, 4, 4, 4),
        cross_attention_dim=32,
        down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    )
    pipe = StableDiffusionPipeline(
        vae=_autoencoder(),
        text_encoder=tiny.text_encoder(words),
        tokenizer=words,
        unet=unet,
        scheduler=DDIMScheduler(**tiny.BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return tiny.sharpen(settle(pipe), 3.0)


def sdxl() -> StableDiffusionXLPipeline:
    """Of 1024 pixels, as Stable Diffusion XL: no attention on the latent's own grid, then 64 and 32."""
    words, second = tiny.tokenizer(), tiny.tokenizer(pad_token="!")
    unet = UNet2DConditionModel(
        sample_size=128,
        layers_per_block=1,
        norm_num_groups=4,
        block_out_channels=(8, 16, 16),
        attention_head_dim=(2, 2, 4),
        use_linear_projection=True,
        cross_attention_dim=32 + 24,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 20,
    )
    wider = {"hidden_size": 24, "num_hidden_layers": 3, "hidden_act": "gelu", "projection_dim": 20}
    pipe = StableDiffusionXLPipeline(
        vae=_autoencoder(),
        text_encoder=tiny.text_encoder(words, num_hidden_layers=3),
        text_encoder_2=tiny.text_encoder(second, CLIPTextModelWithProjection, **wider),
        tokenizer=words,
        tokenizer_2=second,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**tiny.BETAS, steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    )
    return tiny.sharpen(settle(pipe), 3.0)


def sd3() -> StableDiffusion3Pipeline:
    pipe = settle(tiny.sd3())
    tiny.sharpen_joint(pipe.transformer, 3.0, 3.0)
    return pipe


def flux() -> FluxPipeline:
    pipe = settle(tiny.flux())
    tiny.sharpen_joint(pipe.transformer, 3.0, 3.0)
    return pipe
