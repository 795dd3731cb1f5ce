"""Stand-ins for maps: exact masks of rendered scenes, made as coarse, soft and noisy as an attention map is."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from ovam.mini.scenes import LABELS, render, seed_of

GRID = 24
BLUR = 1.0  # cells


@dataclass(frozen=True)
class StandIn:
    """One class of one scene.

    Attributes:
        scene: Number of the scene in its split.
        picture: (height, width, 3), uint8.
        truth: (height, width), bool.
        map: (24, 24), float32 in [0, 1].
    """

    scene: int
    picture: np.ndarray
    truth: np.ndarray
    map: np.ndarray


def stand_ins(scenes: int, size: int, noise: float) -> Iterator[StandIn]:
    """Yield each class that validation scenes show, with a map of it.

    Args:
        scenes: How many scenes.
        size: Side of the pictures, a multiple of 24.
        noise: Standard deviation of what is added to each cell; the same each time.
    """
    for number in range(scenes):
        scene = render(seed_of("validation", number), split="validation", size=size)
        random = np.random.default_rng(number)
        for label in LABELS.values():
            truth = scene.labels == label
            if truth.any():
                shares = truth.reshape(GRID, size // GRID, GRID, size // GRID).mean((1, 3))
                noisy = gaussian_filter(shares, BLUR) + random.normal(0, noise, shares.shape)
                yield StandIn(number, scene.image, truth, noisy.clip(0, 1).astype(np.float32))
