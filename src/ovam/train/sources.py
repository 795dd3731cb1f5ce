"""The data of a training: read, checked, and brought to one list of classes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovam.checks import number
from ovam.errors import DatasetError, OptionError
from ovam.progress import Progress
from ovam.train.classes import Classes, joint
from ovam.train.folder import Labelled, read_labelled
from ovam.train.survey import Survey, survey

_UNIT, _LARGEST = 32, 512


@dataclass(frozen=True, eq=False)
class Sources:
    """Data sets of a training and its validation, checked.

    Attributes:
        train: Data sets to train on.
        weights: Weight of each of them in every batch.
        val: Data set to validate on.
        classes: Classes of all data sets.
        surveys: What each training set holds.
        val_survey: What the validation set holds.
    """

    train: tuple[Labelled, ...]
    weights: tuple[float, ...]
    val: Labelled
    classes: Classes
    surveys: tuple[Survey, ...]
    val_survey: Survey

    @property
    def usual_size(self) -> int:
        """The median short side of the training pictures, as a multiple of 32 and at most 512."""
        sides = [min(size) for each in self.surveys for size in each.sizes]
        return int(np.clip(round(float(np.median(sides)) / _UNIT), 1, _LARGEST // _UNIT)) * _UNIT

    def record(self) -> list[dict[str, Any]]:
        """Facts about each data set, for the report, and to recognise it when a training is resumed."""
        sets = [
            *zip(self.train, self.surveys, self.weights, strict=True),
            (self.val, self.val_survey, None),
        ]
        return [
            {
                "used_for": "validation" if weight is None else "training",
                "folder": str(data.folder),
                "layout": data.layout,
                "split": data.split,
                "pictures": len(data.pairs),
                "weight": weight,
                "ignored": round(held.ignored / (held.ignored + int(held.pixels.sum())), 4),
            }
            for data, held, weight in sets
        ]


def read_sources(data: Sequence[tuple[str | Path, float | int]], val: str | Path, progress: Progress) -> Sources:
    """Read and check all data sets.

    Args:
        data: Folders with their weights.
        val: Folder to validate on.
        progress: Called for each mask that is checked.

    Raises:
        OptionError: there is no data set, or a weight is not above 0.
        DatasetError: a folder can't be used, classes differ, or a picture is in training and in validation.
    """
    if not data:
        raise OptionError("no data set to train on was given: expected at least one folder")
    for folder, weight in data:
        if number(f"weight of {folder}", weight, least=0) == 0:
            raise OptionError(f"weight of {folder}=0: expected a number above 0; leave the data set out")
    train = tuple(read_labelled(folder, "train") for folder, _ in data)
    held_out = read_labelled(val, "val")
    classes = joint([(str(each.folder), each.classes) for each in (*train, held_out)])
    _check_apart(train, held_out)
    surveys = tuple(survey(each, classes, progress) for each in train)
    weights = tuple(float(weight) for _, weight in data)
    return Sources(train, weights, held_out, classes, surveys, survey(held_out, classes, progress))


def _digest(picture: Path) -> bytes:
    return hashlib.sha256(picture.read_bytes()).digest()


def _check_apart(train: Sequence[Labelled], val: Labelled) -> None:
    """Compare the pictures' bytes: a view or a copy has the same pictures under other names."""
    trained, held = [pair[0] for each in train for pair in each.pairs], [pair[0] for pair in val.pairs]
    sizes = {picture.stat().st_size for picture in trained} & {picture.stat().st_size for picture in held}
    seen = {_digest(picture) for picture in trained if picture.stat().st_size in sizes}
    both = [picture for picture in held if picture.stat().st_size in sizes and _digest(picture) in seen]
    if both:
        raise DatasetError(
            f"{len(both)} of {len(val.pairs)} validation pictures are trained on, first {both[0]}: expected other "
            "pictures, since a model knows those by heart; give another folder, or one with a validation split"
        )
