"""What the oracles are shown: scenes to judge and imitations, every class as often as another.

Drawn as the scenes come, most pixels are ground and the rarest class comes a twentieth as often as the commonest.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lab.mini.oracle import as_input
from lab.mini.training.pool import Pool
from ovam.mini.scenes import CLASSES

IMITATED = 3 / 8  # of the examples
_STRIDE = 4  # of the pixels by which a class is looked for
_LEAST = 4  # such pixels show a class: 0.4 % of a picture of 128 x 128


@dataclass
class _Source:
    """Pictures (picture, height, width, 3) and labels (picture, height, width), both uint8."""

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        coarse = np.array(self.labels[: len(self.images), ::_STRIDE, ::_STRIDE])
        counts = [(coarse == label).sum((1, 2)) for label in range(1, len(CLASSES) + 1)]
        self.showing = {i: shown for i, count in enumerate(counts, 1) if len(shown := np.flatnonzero(count >= _LEAST))}


class Examples:
    """Draws examples.

    Args:
        judged: Scenes of the split "judging".
        imitations: Imitations of scenes, (picture, height, width, 3) uint8.
        imitated_labels: Labels of those scenes, in the same order, (scene, height, width) uint8.
    """

    def __init__(self, judged: Pool, imitations: np.ndarray, imitated_labels: np.ndarray) -> None:
        self._judged, self._imitated = _Source(judged.images, judged.labels), _Source(imitations, imitated_labels)

    @property
    def side(self) -> int:
        """Height and width of the whole pictures."""
        return int(self._judged.labels.shape[1])

    def batch(self, random: np.random.Generator, count: int, side: int) -> tuple[Tensor, Tensor]:
        """Windows that show a class, mirrored and re-coloured by chance.

        Args:
            random: Decides.
            count: Of the examples.
            side: Their height and width. A window is between that and the whole picture, and is shrunk to it: a part
                of a near thing, or the whole of it from further away.

        Returns:
            Pictures in [-1, 1], (picture, 3, side, side), and their labels, (picture, side, side).
        """
        drawn = [self._window(random, side) for _ in range(count)]
        pictures, labels = torch.cat([picture for picture, _ in drawn]), torch.cat([label for _, label in drawn])
        mirrored = torch.from_numpy(random.random(count) < 0.5)
        pictures[mirrored], labels[mirrored] = pictures[mirrored].flip(-1), labels[mirrored].flip(-1)
        gain = torch.from_numpy(random.uniform(0.8, 1.2, (count, 3, 1, 1)).astype(np.float32))
        shift = torch.from_numpy(random.uniform(-0.1, 0.1, (count, 1, 1, 1)).astype(np.float32))
        return pictures * gain + shift, labels

    def _window(self, random: np.random.Generator, side: int) -> tuple[Tensor, Tensor]:
        source = self._imitated if random.random() < IMITATED else self._judged
        label = random.choice([*source.showing])
        i = random.choice(source.showing[label])
        places = np.argwhere(source.labels[i, ::_STRIDE, ::_STRIDE] == label) * _STRIDE
        whole = source.labels.shape[1]
        width = int(random.integers(side, whole + 1))
        corner = (random.choice(places) - random.integers(0, width, 2)).clip(0, whole - width)
        y, x = (slice(at, at + width) for at in corner)
        picture = as_input(source.images[i : i + 1, y, x])
        labels = torch.from_numpy(source.labels[i : i + 1, y, x].astype(np.float32))
        shrunk = F.interpolate(labels[None], (side, side), mode="nearest-exact")[0].long()
        return F.interpolate(picture, (side, side), mode="area"), shrunk
