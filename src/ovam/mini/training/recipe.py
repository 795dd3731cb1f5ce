"""The whole recipe, stage after stage; each stage is skipped when its result lies in the work folder."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ovam.mini.training.autoencoder import encode_pool, train_autoencoder
from ovam.mini.training.denoiser import PHASES, DenoiserTraining, Phase, build_scheduler
from ovam.mini.training.pool import Pool
from ovam.mini.training.text_tower import train_text_encoder
from ovam.mini.training.tokenizer import train_tokenizer

SCENES = 24_000


def _parts(work: Path, pool: Pool) -> tuple[CLIPTokenizer, AutoencoderKL, CLIPTextModel]:
    if not (work / "tokenizer").exists():
        train_tokenizer().save_pretrained(work / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    if not (work / "vae").exists():
        train_autoencoder(pool, work / "vae")
    if not (work / "text_encoder").exists():
        train_text_encoder(pool, tokenizer, work / "text_encoder")
    return (
        tokenizer,
        AutoencoderKL.from_pretrained(work / "vae").eval(),
        CLIPTextModel.from_pretrained(work / "text_encoder").eval(),
    )


def train(work: Path, *, scenes: int = SCENES, phases: tuple[Phase, ...] = PHASES) -> None:
    """Run the recipe in `work`, resuming whatever stands there. Half of it is the last phase of the denoiser."""
    work.mkdir(parents=True, exist_ok=True)
    pool = Pool(work, scenes)
    tokenizer, autoencoder, encoder = _parts(work, pool)
    latents = {
        size: encode_pool(autoencoder, pool, size, work / f"latents-{size}-{scenes}.pt")
        for size in {phase.size for phase in phases}
    }
    DenoiserTraining(work / "unet", latents, pool.captions, tokenizer, encoder).run(phases)


def export(work: Path, folder: Path) -> None:
    """Put the parts in `work` together as a `StableDiffusionPipeline` folder, float16 safetensors."""
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(work / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(work / "unet"),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(dtype=torch.float16).save_pretrained(folder)
