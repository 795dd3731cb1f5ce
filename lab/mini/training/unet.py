"""mini's denoiser: a UNet with cross attention at grids of 16, 8 and 4, trained on v-prediction."""

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor

from lab.mini.training.autoencoder import CHANNELS
from ovam.backbones.unet_blocks import WORD_BLOCKS

TEXT_WIDTH = 192
_FOLLOW_WORDS = ["up_blocks.2"]  # chosen on validation scenes: section "choices" of `python -m lab.mini report`


def build_unet() -> UNet2DConditionModel:
    """The UNet with random weights. Attention is explicit: its backward pass is twice as fast on so few places."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(96, 128, 160),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(2, 4, 5),  # numbers of heads, not their width
        norm_num_groups=16,
        use_linear_projection=True,
    )
    unet.register_to_config(**{WORD_BLOCKS: _FOLLOW_WORDS})
    unet.set_attn_processor(AttnProcessor())
    return unet


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with the velocity predicted (Salimans and Ho, arXiv:2202.00512)."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def compile_blocks(unet: UNet2DConditionModel) -> None:
    """Compile the transformer blocks in place: a training step takes two thirds of the time. It wants a C++ compiler.

    Blocks of the same shapes share their code. The convolutions are left as they are: compiled they are no faster.
    """
    torch._dynamo.config.recompile_limit = 64
    for module in unet.modules():
        if isinstance(module, BasicTransformerBlock):
            module.compile(dynamic=False)
