"""Imitations of generated pictures: scenes sent through mini's autoencoder, or noised and denoised by mini on the way.

They look generated, and their labels are known, up to what the denoiser changes.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

STEPS = 20  # of a whole sampling, of which re-noising goes the last part


@torch.no_grad()
def imitate(
    pipe: Any, pictures: Tensor, captions: list[str], *, strength: float | None, random: torch.Generator
) -> np.ndarray:
    """Pictures through the autoencoder, and re-noised on the way where a strength is given.

    Args:
        pipe: The model.
        pictures: (picture, 3, height, width) in [-1, 1].
        captions: Of each picture.
        strength: Share of the noise schedule, in (0, 1]; None for the autoencoder alone.
        random: Of the noise.

    Returns:
        (picture, height, width, 3) uint8.
    """
    latents = pipe.vae.encode(pictures).latent_dist.mean * pipe.vae.config.scaling_factor
    if strength is not None:
        latents = renoise(pipe, latents, captions, strength, random)
    decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    made: np.ndarray = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return made


def renoise(pipe: Any, latents: Tensor, captions: list[str], strength: float, random: torch.Generator) -> Tensor:
    """Noise scaled latents to a share of the schedule and denoise them again, with captions and without guidance."""
    pipe.scheduler.set_timesteps(STEPS)
    timesteps = [t for t in pipe.scheduler.timesteps if t < strength * pipe.scheduler.config.num_train_timesteps]
    noise = torch.randn(latents.shape, generator=random)
    latents = pipe.scheduler.add_noise(latents, noise, timesteps[0].repeat(len(latents)))
    ids = pipe.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    text = pipe.text_encoder(ids).last_hidden_state
    for timestep in timesteps:
        predicted = pipe.unet(latents, timestep, text).sample
        latents = pipe.scheduler.step(predicted, timestep, latents).prev_sample
    return latents
