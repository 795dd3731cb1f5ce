"""The pipelines that are measured: the embedded model, random weights of published sizes, and tiny ones."""

import functools
from dataclasses import dataclass
from typing import Any

import torch

FULL_SIZE_SEED = 0
PROMPT = "a photo of a dog on the sand"


@dataclass(frozen=True, eq=False)
class Model:
    """A pipeline and how it is run.

    Attributes:
        name: As it stands in tables.
        weights: Hash of the weights, or how they were drawn.
        pipe: The pipeline.
        call: Arguments of a run.
    """

    name: str
    weights: str
    pipe: Any
    call: dict[str, Any]

    def run(self, seed: int = 0) -> Any:
        """One run of the pipeline: its pictures or latents as an array (image, ...)."""
        return self.pipe(PROMPT, generator=torch.Generator().manual_seed(seed), **self.call).images


@functools.cache
def mini(steps: int) -> Model | None:
    """The embedded model with its ordinary guidance; None where it has not been trained yet."""
    from ovam.models import load, mini_folder

    if not (mini_folder() / "model_index.json").is_file():
        return None
    pipe = load("mini")
    pipe.set_progress_bar_config(disable=True)
    return Model("mini", _weights_hash(pipe), pipe, {"num_inference_steps": steps, "output_type": "np"})


def _weights_hash(pipe: Any) -> str:
    from ovam.tensor_file import fingerprint

    parts = {"unet": pipe.unet, "text_encoder": pipe.text_encoder, "vae": pipe.vae}
    return fingerprint({f"{name}.{key}": t for name, part in parts.items() for key, t in part.state_dict().items()})


@functools.cache
def full_size(steps: int) -> Model:
    """A UNet as large as Stable Diffusion 1.5's at 64x64 latents, with a tiny text encoder and autoencoder.

    Without guidance, which makes the denoiser's work half as long and the capture's no shorter; latents are
    not decoded. Both are the harder case for the capture's share.
    """
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    from tests.tiny import autoencoder, text_encoder, tokenizer

    torch.manual_seed(FULL_SIZE_SEED)
    words = tokenizer()
    pipe = StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(words, hidden_size=768),
        tokenizer=words,
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768).eval(),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    side = 64 * pipe.vae_scale_factor
    call = {"num_inference_steps": steps, "guidance_scale": 1.0, "height": side, "width": side}
    weights = f"random SD 1.5 size, torch seed {FULL_SIZE_SEED}"
    return Model("UNet of SD 1.5 size", weights, pipe, {**call, "output_type": "latent"})


@functools.cache
def full_size_pictures(steps: int) -> Model:
    """The same UNet with an autoencoder of few channels that makes pictures of 512 x 512 pixels."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline

    bare = full_size(steps)
    torch.manual_seed(FULL_SIZE_SEED)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        sample_size=512,
    )
    pipe = StableDiffusionPipeline(**{**bare.pipe.components, "vae": vae}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": steps, "output_type": "np"}
    return Model(f"{bare.name}, with pictures", bare.weights, pipe, call)


@functools.cache
def full_size_xl(steps: int) -> Model:
    """A UNet as large as Stable Diffusion XL's, at 64x64 latents and in bfloat16; otherwise as `full_size`."""
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModelWithProjection

    from tests.tiny import autoencoder, text_encoder, tokenizer

    torch.manual_seed(FULL_SIZE_SEED)
    words = tokenizer()
    torch.set_default_dtype(torch.bfloat16)  # at once: weights in float32 first would take 10 GB
    try:
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    wide = {"hidden_size": 1280, "projection_dim": 1280}
    pipe = StableDiffusionXLPipeline(
        vae=autoencoder().to(torch.bfloat16),
        text_encoder=text_encoder(words, hidden_size=768).to(torch.bfloat16),
        text_encoder_2=text_encoder(words, CLIPTextModelWithProjection, **wide).to(torch.bfloat16),
        tokenizer=words,
        tokenizer_2=words,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    side = 64 * pipe.vae_scale_factor
    call = {"num_inference_steps": steps, "guidance_scale": 1.0, "height": side, "width": side}
    weights = f"random SDXL size in bfloat16, torch seed {FULL_SIZE_SEED}"
    return Model("UNet of SDXL size", weights, pipe, {**call, "output_type": "latent"})


MODELS = {"mini": mini, "full_size": full_size, "full_size_xl": full_size_xl}
"""By name, each made for a number of steps."""

TINY_STEPS, TINY_SIDE = 20, 32


def tiny_ones() -> dict[str, Model]:
    """One tiny random pipeline of each family, in which a capture's own work is nearly all there is to see."""
    from tests import tiny

    makers = {
        "Stable Diffusion 1.x": tiny.sd1,
        "Stable Diffusion XL": tiny.sdxl,
        "PixArt alpha": tiny.pixart_alpha,
        "Stable Diffusion 3": tiny.sd3,
        "FLUX.1": tiny.flux,
    }
    found = {}
    for name, make in makers.items():
        pipe = make()
        pipe.set_progress_bar_config(disable=True)
        call = {"num_inference_steps": TINY_STEPS, "guidance_scale": 1.0, "output_type": "latent"}
        own = {"use_resolution_binning": False, "clean_caption": False} if make is tiny.pixart_alpha else {}
        found[name] = Model(name, "tiny random, seed 0", pipe, {**call, **own, "height": TINY_SIDE, "width": TINY_SIDE})
    return found
