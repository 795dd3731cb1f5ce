"""Training data: an endless, fixed order of pictures, in which every batch holds each data set by its weight.

What stands at a place follows from the seed and the place alone. So a training that is resumed, or is read by several
processes, sees what an unbroken one sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int64

from ovam.train.augment import augmented
from ovam.train.classes import Classes
from ovam.train.files import read_mask, read_picture
from ovam.train.folder import Labelled
from ovam.train.model_input import Scaling, as_input
from ovam.train.options import AugmentOptions


@dataclass(frozen=True)
class Order:
    """Which item stands at each place of the training.

    Attributes:
        source: Number of the data set at each place, (place,).
        draw: How many items of that data set stand before it, (place,).
    """

    source: Int64[np.ndarray, " place"]
    draw: Int64[np.ndarray, " place"]


def order(weights: Sequence[float | int], length: int) -> Order:
    """Spread data sets evenly over the places: up to any place, each has had its share of the places, give or take one.

    So 1:1 gives four and four in each batch of eight. Batches of nine have five and four, then four and five.

    Args:
        weights: Weight of each data set, positive.
        length: Number of places.
    """
    shares = [weight / sum(weights) for weight in weights]
    source = np.zeros(length, np.int64)
    if len(shares) > 1:
        drawn = [0] * len(shares)
        for place in range(length):
            behind = [share * (place + 1) - had for share, had in zip(shares, drawn, strict=True)]
            most = max(range(len(shares)), key=lambda i: round(behind[i], 9))
            source[place] = most
            drawn[most] += 1
    draw = np.zeros(length, np.int64)
    for i in range(len(shares)):
        own = source == i
        draw[own] = np.arange(int(own.sum()))
    return Order(source, draw)


@lru_cache(maxsize=64)
def _shuffled(seed: int, source: int, turn: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, source, turn]).permutation(count)


class Mixture(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The pictures of a training, place by place. Each pass through a data set has a new order.

    Args:
        sets: The data sets.
        weights: Their weights in every batch.
        classes: The joint classes.
        length: Number of places.
        scaling: Size and colours of the model's input.
        augment: How pictures are varied.
        seed: Seed of the order and of the changes.
    """

    def __init__(
        self,
        sets: Sequence[Labelled],
        weights: Sequence[float | int],
        classes: Classes,
        *,
        length: int,
        scaling: Scaling,
        augment: AugmentOptions,
        seed: int,
    ) -> None:
        self._sets, self._seed, self._augment, self._scaling = tuple(sets), seed, augment, scaling
        self._tables = [classes.labels_of(data.classes) for data in sets]
        self._order = order(weights, length)

    def __len__(self) -> int:
        return len(self._order.source)

    def place(self, index: int) -> tuple[int, int]:
        """Return the data set and the number of the item at a place."""
        source, draw = int(self._order.source[index]), int(self._order.draw[index])
        turn, at = divmod(draw, len(self._sets[source].pairs))
        return source, int(_shuffled(self._seed, source, turn, len(self._sets[source].pairs))[at])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Pixels (3, size, size) float32 and labels (size, size) int64 at a place."""
        source, item = self.place(index)
        picture, mask = self._sets[source].pairs[item]
        labels = self._tables[source][read_mask(mask)]
        rng = np.random.default_rng([self._seed, 1 << 32, index])
        square, labels = augmented(np.array(read_picture(picture)), labels, self._scaling.size, rng, self._augment)
        return {"pixel_values": as_input(square, self._scaling), "labels": torch.from_numpy(labels.astype(np.int64))}


def collated(items: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Join several items to one batch."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}
