"""How good the masks of the generated pictures are: their mIoU with what the oracles see."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lab.training.study import ORACLE
from ovam.dataset.layout import read
from ovam.evaluate import Confusion
from ovam.masks.mask_like import IGNORE


def quality(sets: Mapping[str, Path], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return for each data set its number of pictures, mIoU with the oracles' masks, and share of undecided pixels.

    Pixels that are undecided in either mask do not count; the classes' mean includes the background.

    Args:
        sets: Folders by name, the oracles' among them.
        names: Data sets to judge; their pictures are some of the oracles'.
    """
    truths = {item.index: item for item in read(sets[ORACLE]).items}
    lines = []
    for name in names:
        data = read(sets[name])
        label_of = np.full(256, IGNORE, dtype=np.uint8)
        label_of[[0, *data.about.ids.values()]] = np.arange(len(data.about.ids) + 1)
        total, undecided = Confusion.empty(len(data.about.ids) + 1), list[float]()
        for item in data.items:
            found, truth = label_of[item.labels()], label_of[truths[item.index].labels()]
            undecided.append(float((found == IGNORE).mean()))
            total += Confusion.of(found, np.where(found == IGNORE, IGNORE, truth), len(total.counts), ignore=IGNORE)
        miou = 100 * float(np.nanmean(total.iou()))
        share = 100 * float(np.mean(undecided))
        lines.append({"set": name, "pictures": len(data.items), "miou": miou, "undecided": share})
    return lines
