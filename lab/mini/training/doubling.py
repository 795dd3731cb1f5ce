"""Stage 2: the shipped autoencoder, which shows the latents of 64 pixels as pictures of 128.

The denoiser learns latents of 16 x 16 places, which an autoencoder of factor 4 makes of scenes at half their size. The
decoder here makes the scene at its full size of them, and the encoder finds the same latents in such a picture. So
people get 128 pixels, and the denoiser, which costs nearly all of the training, sees a quarter of them.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from lab.mini.training.autoencoder import distance
from lab.mini.training.loop import DEVICE, Average, Log, descend, half_precision, warm_cosine
from lab.mini.training.pool import SIZE, Pool

ITERATIONS, BATCH, PEAK_RATE = 4200, 16, 1e-3
FACTOR, _OF_CROP = 8, 8  # pixels of a place, and places of a side of a crop
_WHOLE_SHARE, _WHOLE_BATCH = 0.4, 4  # the last iterations see whole scenes, whose normalisation differs from a crop's
_WIDTH = 16  # channels at full size
_NOISE = 0.05  # deviation of the noise on the latents to decode, whose own is 1: the denoiser's are not exact


def build_doubled(small: AutoencoderKL) -> AutoencoderKL:
    """An autoencoder with a level of full size more than `small`, whose weights it takes where shapes are alike."""
    config = small.config
    widths = (_WIDTH, *config.block_out_channels)
    model = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_num_groups,
        sample_size=SIZE,
        mid_block_add_attention=config.mid_block_add_attention,
        scaling_factor=config.scaling_factor,
    )
    levels = range(len(config.block_out_channels))
    moved = {f"encoder.down_blocks.{level}.": f"encoder.down_blocks.{level + 1}." for level in levels}
    known = {_renamed(name, moved): value for name, value in small.state_dict().items()}
    own = model.state_dict()
    model.load_state_dict(
        {name: known[name] if _fits(known.get(name), value) else value for name, value in own.items()}
    )
    return model


def _renamed(name: str, moved: dict[str, str]) -> str:
    for before, after in moved.items():
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name


def _fits(known: Tensor | None, value: Tensor) -> bool:
    return known is not None and known.shape == value.shape


def train_doubled(
    pool: Pool, latents: Tensor, small: AutoencoderKL, folder: Path, *, iterations: int = ITERATIONS
) -> AutoencoderKL:
    """Train and save to `folder`.

    Args:
        pool: Scenes of 128 pixels.
        latents: Scaled latents of the scenes at half their size, (view, scene, channel, 16, 16); view 1 is the mirror
            image.
        small: The autoencoder that made them.
        folder: Gets the autoencoder.
        iterations: Steps of the optimiser.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = build_doubled(small).to(DEVICE)
    optimiser, average = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE), Average(model, 0.995)
    log = Log(folder.with_suffix(".log.jsonl"))
    scale = model.config.scaling_factor
    for iteration in range(1, iterations + 1):
        whole = iteration > (1 - _WHOLE_SHARE) * iterations
        pictures, truth = _drawn(pool, latents, generator, whole=whole)
        noisy = truth + _NOISE * torch.randn(truth.shape, generator=generator)
        pictures, truth, noisy = (tensor.to(DEVICE) for tensor in (pictures, truth, noisy))
        with half_precision():
            restored = model.decode(noisy / scale).sample
            encoded = model.encode(pictures).latent_dist.mean
        loss = distance(restored.float(), pictures) + F.mse_loss(encoded.float() * scale, truth)
        descend(optimiser, loss, warm_cosine(iteration, iterations, PEAK_RATE))
        average.update(iteration)
        log.add(iteration, loss.item(), encoder=F.mse_loss(encoded.float() * scale, truth).item())
    average.copy_to_model()
    model.eval().save_pretrained(folder)
    return model


def _drawn(pool: Pool, latents: Tensor, generator: torch.Generator, *, whole: bool) -> tuple[Tensor, Tensor]:
    """Pictures (picture, 3, side, side) in [-1, 1] and their latents, whole or the same part of all of them."""
    count = _WHOLE_BATCH if whole else BATCH
    indices = torch.randint(len(pool), (count,), generator=generator)
    mirrored = bool(torch.randint(2, (), generator=generator))
    pictures, chosen = pool.pictures(indices.numpy(), SIZE), latents[int(mirrored), indices].float()
    if mirrored:
        pictures = pictures.flip(-1)
    if whole:
        return pictures, chosen
    top, left = torch.randint(0, SIZE // FACTOR - _OF_CROP + 1, (2,), generator=generator).tolist()
    part = np.s_[:, :, top : top + _OF_CROP, left : left + _OF_CROP]
    pixels = np.s_[:, :, FACTOR * top : FACTOR * (top + _OF_CROP), FACTOR * left : FACTOR * (left + _OF_CROP)]
    return pictures[pixels], chosen[part]
