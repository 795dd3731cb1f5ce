"""How far the oracles can be trusted: on scenes, after the autoencoder, and on re-noised scenes."""

from typing import Any

import numpy as np
import torch
from rich.progress import track

from ovam.evaluate import Confusion
from ovam.mini.imitation import imitate
from ovam.mini.oracle import as_input, label_maps, load_oracles
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


def distorted(pipe: Any, images: np.ndarray, captions: list[str], strength: float | None) -> np.ndarray:
    """Pictures through the autoencoder, and noised to a share of the schedule and denoised on the way, where asked."""
    random = torch.Generator().manual_seed(5)
    made = []
    for start in range(0, len(images), 8):
        part = slice(start, start + 8)
        made.append(imitate(pipe, as_input(images[part]), captions[part], strength=strength, random=random))
    return np.concatenate(made)
