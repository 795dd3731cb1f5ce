"""Write masks as COCO's run lengths; `ovam.masks.coco` reads them."""

from collections.abc import Iterable
from typing import TypedDict

import numpy as np
from jaxtyping import Bool


class Rle(TypedDict):
    """A mask as COCO's packed run lengths: `size` is [height, width], `counts` the packed text."""

    size: list[int]
    counts: str


def rle_of(mask: Bool[np.ndarray, "height width"]) -> Rle:
    """Return a mask as COCO's packed run lengths, equal to what `pycocotools.mask.encode` gives."""
    height, width = mask.shape
    return Rle(size=[height, width], counts=packed(runs_of(mask.T)))


def runs_of(values: Bool[np.ndarray, "..."]) -> list[int]:
    """Return the lengths of the runs of False and of True, which alternate; the first run is of False.

    The last axis changes fastest.
    """
    flat = values.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    first = [0] if flat.size and flat[0] else []
    return [*first, *np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()] if flat.size else []


def packed(runs: Iterable[int]) -> str:
    """Return runs as text: five bits per letter, the lowest bits first; a sixth bit is set if more letters follow.

    The text has the first three runs as they are. In place of every later run it has the difference between this run
    and the run two places before.
    """
    letters, before = bytearray(), list[int]()
    for run in runs:
        number = run - before[-2] if len(before) > 2 else run
        before.append(run)
        more = True
        while more:
            bits = number & 31
            number >>= 5
            more = number != (-1 if bits & 16 else 0)
            letters.append((bits | 32 * more) + 48)
    return letters.decode("ascii")
