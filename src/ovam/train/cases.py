"""Pictures of a report, chosen by rule: where the model does best, about as usual, and worst."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ovam.colours import voc_palette
from ovam.page import grid, with_legend
from ovam.train.classes import IGNORE

EACH = 3
"""Pictures of each kind."""

_TILE = 224
_OPACITY = 0.65


@dataclass(frozen=True)
class Case:
    """One chosen picture.

    Attributes:
        kind: "good", "median" or "bad".
        index: Its number in the data set.
        miou: Mean IoU over the labels that are true in it, in [0, 1].
    """

    kind: str
    index: int
    miou: float


def choose(scores: Sequence[float], each: int = EACH) -> list[Case]:
    """Choose the pictures with the highest, the median and the lowest scores, each picture once.

    Of equal scores, the picture that comes first in the data set is taken first. Where there are few pictures, the good
    and the bad ones come first.

    Args:
        scores: Score of each picture. Pictures with NaN, in which nothing is labelled, are left out.
        each: Number of pictures of each kind.
    """
    known = [i for i, score in enumerate(scores) if np.isfinite(score)]
    ranked = sorted(known, key=lambda i: (-scores[i], i))
    good = ranked[: min(each, (len(ranked) + 1) // 2)]
    rest = ranked[len(good) :]
    bad = rest[-each:]
    between = rest[: len(rest) - len(bad)]
    first = min(max(0, len(ranked) // 2 - each // 2 - len(good)), max(0, len(between) - each))
    kinds = (("good", good), ("median", between[first : first + each]), ("bad", bad))
    return [Case(kind, i, float(scores[i])) for kind, numbers in kinds for i in numbers]


def sheet(rows: Sequence[tuple[str, str, Image.Image, np.ndarray, np.ndarray]], names: Sequence[str]) -> Image.Image:
    """Draw one row for each case: the picture, its true labels and the predicted ones; below the rows a legend.

    Args:
        rows: For each case its name, a note, the picture, and the true and the predicted labels (height, width).
            Ignored pixels are white.
        names: Names of all labels.
    """
    tiles = list[tuple[str, str, Image.Image]]()
    for name, note, picture, truth, labels in rows:
        tiles.append((name, note, _framed(picture)))
        tiles.append(("true", "", _framed(_painted(picture, truth))))
        tiles.append(("predicted", "", _framed(_painted(picture, labels))))
    shown = sorted({int(label) for *_, truth, labels in rows for label in np.union1d(truth, labels)} - {IGNORE})
    red, green, blue = voc_palette().T.tolist()
    return with_legend(grid(tiles, 3), [(names[i], (red[i], green[i], blue[i])) for i in shown])


def _painted(picture: Image.Image, labels: np.ndarray) -> Image.Image:
    palette = voc_palette().astype(np.float32)
    palette[IGNORE] = 255
    grey = np.asarray(picture.convert("L").convert("RGB"), dtype=np.float32)
    return Image.fromarray(((1 - _OPACITY) * grey + _OPACITY * palette[labels]).round().astype(np.uint8))


def _framed(picture: Image.Image) -> Image.Image:
    """Bring a picture into a square tile."""
    factor = _TILE / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    tile = Image.new("RGB", (_TILE, _TILE), (235, 235, 238))
    resample = Image.Resampling.NEAREST if factor > 2 else Image.Resampling.BILINEAR
    tile.paste(picture.resize(size, resample), ((_TILE - size[0]) // 2, (_TILE - size[1]) // 2))
    return tile
