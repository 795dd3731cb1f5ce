"""How far the oracles can be trusted: on scenes, after the autoencoder, and on re-noised scenes."""

from typing import Any

import numpy as np
import torch
from rich.progress import track

from ovam.evaluate import Confusion
from ovam.mini.oracle import label_maps, load_oracles
from ovam.mini.scenes import CLASSES, render, seed_of

STRENGTHS = (0.2, 0.4, 0.6)


def measure_oracles(pipe: Any, *, scenes: int = 100) -> dict[str, dict[str, float]]:
    """Mean IoU of each oracle over the 20 classes and the rest as background, on test scenes seen in several ways.

    Args:
        pipe: The model, whose autoencoder and denoiser distort the scenes.
        scenes: Number of test scenes.
    """
    rendered = [render(seed_of("test", i), split="test") for i in track(range(scenes), "oracles")]
    images, truth = (np.stack([getattr(scene, name) for scene in rendered]) for name in ("image", "labels"))
    ways = {"scenes": images, "after the autoencoder": distorted(pipe, images, [""] * scenes, None)}
    captions = [scene.caption for scene in rendered]
    for strength in STRENGTHS:
        ways[f"re-noised to {strength}"] = distorted(pipe, images, captions, strength)
    return {
        name: {way: _miou(label_maps(oracle, seen), truth) for way, seen in ways.items()}
        for name, oracle in load_oracles().items()
    }


def _miou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Grounds and unnamed things are one background, as in Pascal VOC."""
    count = len(CLASSES) + 1
    merged = [np.where(labels < count, labels, 0) for labels in (predicted, truth)]
    return Confusion.of(merged[0], merged[1], count, ignore=None).mean_iou()


@torch.no_grad()
def distorted(pipe: Any, images: np.ndarray, captions: list[str], strength: float | None) -> np.ndarray:
    """Pictures through the autoencoder, and noised to a share of the schedule and denoised on the way, where asked."""
    from ovam.mini.oracle import as_input
    from ovam.mini.training.oracles import renoise

    random = torch.Generator().manual_seed(5)
    made = []
    for start in range(0, len(images), 8):
        part = slice(start, start + 8)
        latents = pipe.vae.encode(as_input(images[part])).latent_dist.mean * pipe.vae.config.scaling_factor
        if strength is not None:
            latents = renoise(pipe, latents, captions[part], strength, random)
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
        made.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(made)
