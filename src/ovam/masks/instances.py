"""Things as separate objects: the connected pieces of each word's region in a label map."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Integer
from scipy import ndimage
from torch import Tensor

from ovam.checks import whole
from ovam.masks.outlines import Polygon, polygons_of
from ovam.masks.regions import Box, cleaned, pieces
from ovam.masks.run_lengths import Rle, rle_of
from ovam.masks.splitting import split_at_necks
from ovam.shapes import LabelMap, Mask


@dataclass(frozen=True, eq=False)
class Instance:
    """One object: a connected piece of a word's region.

    Attributes:
        word: Word of the object.
        label: Number of the word in the label map.
        box_xywh: Smallest box around the object: x, y, width and height in whole pixels, as in COCO.
        area: Number of the object's pixels.
        score: Mean score of the word over the object's pixels, in [0, 1].
        number: Value of the object's pixels in `numbers`. Every object has its own number, while `label` is the same
            for all objects of a word.
        numbers: Map with the number of the object at each pixel, or 0 for none; the objects that one call returns share
            this map.
    """

    word: str
    label: int
    box_xywh: Box
    area: int
    score: float
    number: int
    numbers: Integer[Tensor, "height width"] = field(repr=False)

    @property
    def mask(self) -> Mask:
        """The pixels of the object."""
        return self.numbers == self.number

    @property
    def box_xyxy(self) -> Box:
        """The box as x1, y1, x2, y2; x2 and y2 are exclusive: one more than the last column and the last row inside."""
        x, y, width, height = self.box_xywh
        return x, y, x + width, y + height

    def polygons(self, *, tolerance: float | int = 1.0) -> tuple[Polygon, ...]:
        """Return the outlines of the object; see `ovam.masks.outlines.polygons_of`."""
        x1, y1, x2, y2 = self.box_xyxy
        inside = (self.numbers[y1:y2, x1:x2] == self.number).numpy()
        return tuple(polygon.moved(x1, y1) for polygon in polygons_of(inside, tolerance=tolerance))

    def rle(self) -> Rle:
        """Return the mask as COCO's packed run lengths; see `ovam.masks.run_lengths.rle_of`."""
        return rle_of(self.mask.numpy())


def instances_of(
    labels: LabelMap,
    words: Sequence[str],
    scores: Float[Tensor, "word height width"],
    *,
    apart: bool = True,
    min_area: int = 0,
    max_hole: int = 0,
    split: bool = False,
) -> tuple[Instance, ...]:
    """Return the objects of a label map, in the order of the words; of one word, the largest object comes first.

    Args:
        labels: 0 is background, 1 is the first word, 2 the second, and so on.
        words: The words.
        scores: Score of each word.
        apart: Whether each connected piece is an object; if not, all pixels of a word are one object.
        min_area: Pieces and objects with fewer pixels are left out.
        max_hole: Holes of up to this many pixels are filled; see `ovam.masks.regions.cleaned`.
        split: Whether pieces are cut at narrow places (necks), to separate things that touch. But a single thing that
            has a neck is cut as well; see `ovam.masks.splitting`.

    Raises:
        OptionError: `min_area` or `max_hole` is not a whole number of at least 0.
    """
    least = max(1, whole("min_area", min_area, least=0))
    clean = cleaned(labels, min_area=least, max_hole=max_hole).cpu().numpy()
    shared, kept = np.zeros(clean.shape, dtype=np.int32), list[tuple[int, int, float]]()
    for label in range(1, len(words) + 1):
        numbers = _numbered(clean == label, apart, split)
        areas = np.bincount(numbers.ravel())
        order = [int(number) for number in np.argsort(-areas, kind="stable") if number and areas[number] >= least]
        means = np.atleast_1d(ndimage.mean(scores[label - 1].cpu().numpy(), numbers, order))
        final = np.zeros(len(areas), dtype=np.int32)
        final[order] = np.arange(1, len(order) + 1) + len(kept)
        shared += final[numbers]
        kept += [(label, int(areas[number]), float(mean)) for number, mean in zip(order, means, strict=True)]
    places, together = ndimage.find_objects(shared), torch.from_numpy(shared)
    return tuple(
        Instance(words[label - 1], label, _box(place), area, score, number, together)
        for number, ((label, area, score), place) in enumerate(zip(kept, places, strict=True), start=1)
    )


def _box(place: tuple[slice, slice]) -> Box:
    rows, columns = place
    return columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start


def _numbered(region: np.ndarray, apart: bool, split: bool) -> np.ndarray:
    """Number the objects of a region: 1, 2, ... inside, 0 outside."""
    if not apart:
        return region.astype(np.int32)
    numbers, _ = pieces(region)
    return _parts(numbers) if split else numbers


def _parts(numbers: np.ndarray) -> np.ndarray:
    """Cut numbered pieces at their necks, each inside its own box."""
    found, count = np.zeros(numbers.shape, dtype=np.int32), 0
    for number, place in enumerate(ndimage.find_objects(numbers), start=1):
        parts = split_at_necks(numbers[place] == number)
        found[place] += np.where(parts > 0, parts + count, 0)
        count += int(parts.max())
    return found
