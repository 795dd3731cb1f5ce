"""Stage 1: the autoencoder of half the size, 64 x 64 pixels to a 16 x 16 latent and back (factor 4)."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from lab.mini.training.loop import (
    DEVICE,
    Average,
    Log,
    descend,
    half_precision,
    load_tensors,
    save_tensors,
    warm_cosine,
)
from lab.mini.training.pool import SIZE, Pool

ITERATIONS, BATCH, PEAK_RATE, CROP = 3200, 16, 1.5e-3, 64
CHANNELS = 4
_KL_WEIGHT = 1e-6
_ENCODE_BATCH = 8  # larger ones leave the cache: 5.8 ms a picture at 8, 10.3 ms at 64


def build_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=16,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def _views(pool: Pool, indices: Tensor, generator: torch.Generator) -> Tensor:
    """Half the batch as 64-pixel crops of the scenes, half as whole scenes at half size."""
    full = pool.pictures(indices.numpy(), SIZE)
    left, top = torch.randint(0, SIZE - CROP + 1, (2,), generator=generator).tolist()
    crops, whole = full[::2, :, top : top + CROP, left : left + CROP], full[1::2]
    return torch.cat([crops, F.avg_pool2d(whole, SIZE // CROP)])


def distance(restored: Tensor, pictures: Tensor) -> Tensor:
    """Mean distance of colours, and of their differences between neighbours, without which edges stay soft."""
    difference = restored - pictures
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return difference.abs().mean() + difference.square().mean() + 0.5 * edges


def train_autoencoder(pool: Pool, folder: Path) -> AutoencoderKL:
    """Train and save to `folder`; the scaling factor makes the latents' standard deviation 1."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = build_autoencoder().to(DEVICE)
    optimiser, average = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE), Average(model, 0.995)
    log = Log(folder.with_suffix(".log.jsonl"))
    for iteration in range(1, ITERATIONS + 1):
        pictures = _views(pool, torch.randint(len(pool), (BATCH,), generator=generator), generator).to(DEVICE)
        with half_precision():
            posterior = model.encode(pictures).latent_dist
            restored = model.decode(posterior.sample()).sample
        loss = distance(restored.float(), pictures) + _KL_WEIGHT * posterior.kl().float().mean()
        descend(optimiser, loss, warm_cosine(iteration, ITERATIONS, PEAK_RATE))
        average.update(iteration)
        log.add(iteration, loss.item())
    average.copy_to_model()
    model.eval()
    model.register_to_config(scaling_factor=1 / _latent_deviation(model, pool))
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def _latent_deviation(model: AutoencoderKL, pool: Pool) -> float:
    indices = torch.arange(0, min(256, len(pool))).numpy()
    return float(model.encode(pool.pictures(indices, SIZE).to(DEVICE)).latent_dist.mean.std())


@torch.no_grad()
def encode_pool(model: AutoencoderKL, pool: Pool, size: int, path: Path) -> Tensor:
    """Scaled latents of every scene and its mirror image, kept in `path`.

    Returns:
        (view, scene, channel, height, width) float16; view 1 is the mirror image.
    """
    if path.exists():
        return load_tensors(path)["latents"].cpu()
    views: list[list[Tensor]] = [[], []]
    for start in track(range(0, len(pool), _ENCODE_BATCH), f"latents of {size} pixels"):
        pictures = pool.pictures(np.arange(start, min(start + _ENCODE_BATCH, len(pool))), size).to(DEVICE)
        with half_precision():
            for view, shown in zip(views, (pictures, pictures.flip(-1)), strict=True):
                latents = model.encode(shown).latent_dist.mean
                view.append((latents.float() * model.config.scaling_factor).half().cpu())
    found = torch.stack([torch.cat(view) for view in views])
    save_tensors({"latents": found}, path)
    return found
