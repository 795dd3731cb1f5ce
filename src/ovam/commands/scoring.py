"""Scores over the files of a comparison: for label maps, soft maps, and the slices of their objects."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ovam.evaluate import Confusion, average_precision, boundary_band, boundary_f, presence_auroc

IGNORE = 255
_BAND = 2  # pixels on each side of an outline that one of the scores leaves out

Thing = tuple[str, tuple[str, ...]]
"""An object of a scene: its class and its slices."""


class LabelTally:
    """Scores of label maps against their truths.

    Args:
        classes: Numbers and names, without the background.
    """

    def __init__(self, classes: Mapping[int, str]) -> None:
        self._classes = classes
        self._labels = max(classes) + 2  # the last one is for undecided pixels
        self._confusion, self._inner = Confusion.empty(self._labels), Confusion.empty(self._labels)
        self._per_image: dict[str, np.ndarray] = {}
        self._outlines: list[float] = []
        self._false_areas: list[float] = []
        self._seen = hashlib.sha256(repr(sorted(classes.items())).encode())

    def add(self, name: str, found: np.ndarray, expected: np.ndarray) -> None:
        """Count one file.

        Args:
            name: Name of the file.
            found: Label numbers, (height, width); 255 is undecided.
            expected: Numbers of classes, 0 or 255, (height, width); 255 is ignored.

        Raises:
            GroundTruthError: the sizes differ.
        """
        found = np.where(found == IGNORE, self._labels - 1, np.where(np.isin(found, list(self._classes)), found, 0))
        one = Confusion.of(found, expected, self._labels, ignore=IGNORE)
        inside = np.where(boundary_band(expected, _BAND), IGNORE, expected)
        self._confusion += one
        self._inner += Confusion.of(found, inside, self._labels, ignore=IGNORE)
        self._per_image[name] = one.iou()
        self._false_areas.append(one.false_positive_area(self._classes))
        self._outlines += [
            boundary_f(found == number, expected == number, expected == IGNORE)
            for number in np.union1d(found, expected)
            if number in self._classes
        ]
        self._seen.update(f"{name} {expected.shape} ".encode() + expected.astype("<i8").tobytes())

    @property
    def truth_hash(self) -> str:
        """Hash of names, files and truths; only results with equal hashes can be compared."""
        return self._seen.hexdigest()[:16]

    def figures(self) -> dict[str, float]:
        """Return means over classes and files, in [0, 1]; NaN if there are no values."""
        counts, ignored = self._confusion.counts, self._confusion.ignored
        per_image = np.array(list(self._per_image.values()))
        true_somewhere = [number for number in self._classes if counts[number].any()]
        return {
            "miou": self._confusion.mean_iou(),
            "miou_without_background": self._confusion.mean_iou(background=False),
            "mean_of_per_image_iou": _mean(_mean(per_image[:, number]) for number in true_somewhere),
            f"miou_{_BAND}_pixels_away_from_outlines": self._inner.mean_iou(),
            "boundary_f": _mean(self._outlines),
            "false_positive_area": _mean(self._false_areas),
            "undecided": float(counts[:, -1].sum() / max(1, counts.sum())),
            "ignored": float(ignored / (counts.sum() + ignored)),
        }

    def of_classes(self) -> list[dict[str, Any]]:
        """Return a record for the background and each class: IoU over all files, and the number of files with it."""
        iou, there = self._confusion.iou(), np.isfinite(list(self._per_image.values())).sum(0)
        return [
            {"class": name, "iou": float(iou[number]), "images": int(there[number])}
            for number, name in ({0: "background"} | dict(self._classes)).items()
        ]

    def slices(self, things: Mapping[str, Iterable[Thing]]) -> list[dict[str, Any]]:
        """Return for each slice the number of its objects, and the mean IoU of their class in their image.

        Args:
            things: Objects of each file; objects of classes without a number are left out.
        """
        numbers = {name: number for number, name in self._classes.items()}
        values: dict[str, list[float]] = {}
        for file, iou in self._per_image.items():
            for name, slices in things.get(file, ()):
                if name in numbers and np.isfinite(iou[numbers[name]]):
                    for each in ("all", *slices):
                        values.setdefault(each, []).append(float(iou[numbers[name]]))
        order = sorted(values, key=lambda each: (each != "all", each))
        return [{"slice": each, "objects": len(values[each]), "iou": _mean(values[each])} for each in order]


class ScoreTally:
    """Scores of soft maps against the same truths, without a threshold.

    Args:
        classes: Numbers of the classes, in the order of the maps.
    """

    def __init__(self, classes: Iterable[int]) -> None:
        self._precision: dict[int, list[float]] = {number: [] for number in classes}
        self._present: list[float] = []
        self._absent: list[float] = []

    def add(self, scores: np.ndarray, expected: np.ndarray) -> None:
        """Count one file.

        Args:
            scores: (class, height, width), any range.
            expected: (height, width); pixels with 255 are ignored.
        """
        counted = expected != IGNORE
        if not counted.any():
            return
        for (number, precision), values in zip(self._precision.items(), scores, strict=True):
            own = expected[counted] == number
            highest = float(values[counted].max())
            if own.any():
                precision.append(average_precision(own, values[counted]))
            (self._present if own.any() else self._absent).append(highest)

    def figures(self) -> dict[str, float]:
        """Return average precision (mean over images, then over classes) and AUROC of the maps' highest scores."""
        known = bool(self._present and self._absent)
        return {
            "average_precision": _mean(map(_mean, self._precision.values())),
            "presence_auroc": presence_auroc(self._present, self._absent) if known else float("nan"),
        }

    def of_classes(self) -> list[dict[str, float]]:
        """Return a record for each class, with the mean over the images that show it; the background has no map."""
        return [{"average_precision": _mean(values)} for values in ((), *self._precision.values())]


def _mean(values: Iterable[float]) -> float:
    """Return the mean without NaN; NaN if there are no values."""
    kept = [value for value in values if not np.isnan(value)]
    return float(np.mean(kept)) if kept else float("nan")
