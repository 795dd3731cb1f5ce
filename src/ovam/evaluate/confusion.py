"""Confusion of label maps: counts that add up over images and machines."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ovam.errors import GroundTruthError
from ovam.evaluate.overlap import check_sizes


@dataclass(frozen=True, eq=False)
class Confusion:
    """How many pixels of each true label were given each label; two of them merge with `+`.

    Attributes:
        counts: (true label, predicted label), int64; label 0 is the background.
        ignored: Number of pixels that the truth marks as ignored.
    """

    counts: np.ndarray
    ignored: int = 0

    @staticmethod
    def empty(labels: int) -> "Confusion":
        """Return a confusion without any pixels; `labels` is the number of labels, background included."""
        return Confusion(np.zeros((labels, labels), dtype=np.int64))

    @staticmethod
    def of(predicted: np.ndarray, truth: np.ndarray, labels: int, *, ignore: int | None = 255) -> "Confusion":
        """Compare one label map with its truth.

        Args:
            predicted: Integers below `labels`, (height, width).
            truth: Integers below `labels`, or `ignore`, (height, width).
            labels: Number of labels with the background.
            ignore: The truth's value for pixels that count for nothing; None where there is none.

        Raises:
            GroundTruthError: the sizes differ, or a label is not below `labels`.
        """
        check_sizes(predicted, truth)
        open_pixels = truth == ignore if ignore is not None else np.zeros(truth.shape, dtype=bool)
        pairs = np.stack([truth[~open_pixels], predicted[~open_pixels]]).astype(np.int64)
        if pairs.size and (pairs.min() < 0 or pairs.max() >= labels):
            raise GroundTruthError(
                f"labels from {pairs.min()} to {pairs.max()} were found, expected 0 to {labels - 1}"
                + ("" if ignore is None else f", or {ignore} for pixels to ignore")
            )
        counts = np.bincount(pairs[0] * labels + pairs[1], minlength=labels * labels)
        return Confusion(counts.reshape(labels, labels), int(open_pixels.sum()))

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(self.counts + other.counts, self.ignored + other.ignored)

    def iou(self) -> np.ndarray:
        """Return the IoU of each label, (label,), in [0, 1]; NaN if a label is neither true nor predicted anywhere."""
        both = np.diag(self.counts).astype(float)
        either = self.counts.sum(0) + self.counts.sum(1) - np.diag(self.counts)
        return np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)

    def false_positive_area(self, labels: Collection[int]) -> float:
        """Return the share of pixels whose predicted label is true nowhere, in [0, 1]; NaN if there are no pixels.

        Args:
            labels: The labels that count: those of words, without the background and without "undecided".
        """
        nowhere = [label for label in labels if not self.counts[label].any()]
        pixels = self.counts.sum()
        return float(self.counts[:, nowhere].sum() / pixels) if pixels else float("nan")

    def mean_iou(self, *, background: bool = True) -> float:
        """Return the mean IoU of the labels that are true somewhere, in [0, 1]; other labels do not enter the mean.

        Args:
            background: Whether label 0 is one of them.
        """
        true_somewhere = self.counts.sum(1) > 0
        chosen = true_somewhere & (np.arange(len(self.counts)) >= (0 if background else 1))
        return float(self.iou()[chosen].mean()) if chosen.any() else float("nan")
