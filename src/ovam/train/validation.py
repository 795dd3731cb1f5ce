"""Compare a model with validation masks, at the size of the pictures: pooled, and picture by picture."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ovam.evaluate import Confusion
from ovam.train.classes import IGNORE, Classes
from ovam.train.files import read_mask, read_picture
from ovam.train.folder import Labelled
from ovam.train.model_input import Scaling, input_of
from ovam.train.scores import labels_at, scores_of


class Validation:
    """The validation pictures of a training.

    Args:
        data: The data set.
        classes: The joint classes.
        sizes: Size (height, width) of each picture.
        scaling: Size and colours of the model's input.
    """

    def __init__(self, data: Labelled, classes: Classes, sizes: Sequence[tuple[int, int]], scaling: Scaling) -> None:
        self.data, self.classes, self._sizes, self._scaling = data, classes, tuple(sizes), scaling
        self._table = classes.labels_of(data.classes)

    def __len__(self) -> int:
        return len(self.data.pairs)

    def truth(self, index: int) -> np.ndarray:
        """Return the true labels of a picture, (height, width) uint8; 255 is ignored."""
        return self._table[read_mask(self.data.pairs[index][1])]

    def predicted(self, model: Any, numbers: Sequence[int], *, batch: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield numbers of pictures with their labels (height, width) uint8, as a model predicts them.

        Args:
            model: In evaluation mode.
            numbers: Numbers of the pictures.
            batch: Pictures of one size that are predicted at once, at most.
        """
        device = next(model.parameters()).device
        for some in self._batches(numbers, batch):
            pixels = torch.stack([input_of(read_picture(self.data.pairs[i][0]), self._scaling) for i in some])
            with torch.inference_mode():
                scores = scores_of(model(pixel_values=pixels.to(device)))
                for i, each in zip(some, scores, strict=True):
                    yield i, labels_at(each, self._sizes[i]).cpu().numpy()

    def compared(self, index: int, labels: np.ndarray) -> Confusion:
        """Return the confusion of one picture."""
        return Confusion.of(labels, self.truth(index), len(self.classes.names), ignore=IGNORE)

    def _batches(self, numbers: Sequence[int], batch: int) -> Iterator[list[int]]:
        """Neighbours whose inputs have one size, at most `batch` of them."""
        held = list[int]()
        for i in numbers:
            if held and (len(held) == batch or self._input_size(i) != self._input_size(held[0])):
                yield held
                held = []
            held.append(i)
        if held:
            yield held

    def _input_size(self, index: int) -> tuple[int, int]:
        return self._scaling.input_size(*self._sizes[index])
