"""Check every mask before a training, so that a wrong one is reported in the first minute and not in the last."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ovam.errors import DatasetError
from ovam.progress import Progress, no_progress
from ovam.train.classes import IGNORE, Classes
from ovam.train.files import read_mask, size_of
from ovam.train.folder import Labelled


@dataclass(frozen=True, eq=False)
class Survey:
    """What the masks of a data set hold.

    Attributes:
        pixels: Pixels of each label, (label,).
        pictures: Pictures that show each label, (label,).
        ignored: Pixels that count for nothing.
        sizes: Size (height, width) of each picture.
    """

    pixels: Int64[np.ndarray, " label"]
    pictures: Int64[np.ndarray, " label"]
    ignored: int
    sizes: tuple[tuple[int, int], ...]


def survey(data: Labelled, classes: Classes, progress: Progress = no_progress) -> Survey:
    """Read all masks, and the sizes of all pictures.

    Raises:
        DatasetError: a mask and its picture differ in size, a mask holds the id of no class, or no pixel has a label.
    """
    table, known = classes.labels_of(data.classes), np.zeros(256, dtype=bool)
    known[[0, IGNORE, *data.classes]] = True
    count = len(classes.names)
    pixels, pictures, ignored = np.zeros(count, np.int64), np.zeros(count, np.int64), 0
    sizes = list[tuple[int, int]]()
    for done, (picture, mask) in enumerate(data.pairs):
        progress(f"checking {data.folder.name}", done, len(data.pairs))
        values, size = read_mask(mask), size_of(picture)
        if values.shape != size:
            raise DatasetError(
                f"mask {mask} is {values.shape[0]} x {values.shape[1]} pixels, its picture {size[0]} x {size[1]}: "
                "expected the same size"
            )
        held = np.bincount(values.ravel(), minlength=256)
        if held[~known].any():
            raise DatasetError(_stray(data, str(mask), np.flatnonzero((held > 0) & ~known).tolist()))
        labels = np.bincount(table, weights=held, minlength=256).astype(np.int64)
        pixels += labels[:count]
        pictures += labels[:count] > 0
        ignored += int(labels[IGNORE])
        sizes.append(size)
    if not pixels.any():
        raise DatasetError(
            f"data set {data.folder} has no labelled pixel in {len(data.pairs)} masks, all are {IGNORE} (ignored): "
            "expected masks of class ids; in a black and white mask, write the id of the class in place of 255"
        )
    return Survey(pixels, pictures, ignored, tuple(sizes))


def _stray(data: Labelled, mask: str, values: list[int]) -> str:
    known = ", ".join(f"{i} {name}" for i, name in list(data.classes.items())[:10])
    more = f" and {len(data.classes) - 10} more" if len(data.classes) > 10 else ""
    return (
        f"mask {mask} holds {', '.join(map(str, values[:10]))}, which is the id of no class: expected 0 for the "
        f"background, {IGNORE} for what is ignored, and {known}{more}"
    )
