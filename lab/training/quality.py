"""How good the masks of the generated pictures are, by what the oracles see; and which scores tell good ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

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
        miou = 100 * total.mean_iou()
        share = 100 * float(np.mean(undecided))
        lines.append({"set": name, "pictures": len(data.items), "miou": miou, "undecided": share})
    return lines


def ranked(sets: Mapping[str, Path], name: str) -> dict[str, float | None]:
    """Return how well each score tells good masks: its rank correlation with the IoU of a mask and the oracles'.

    Each class of each picture counts once; a class that neither mask has counts as an IoU of 0. A correlation is None
    if all scores or all shares are alike.

    Args:
        sets: Folders by name, the oracles' among them.
        name: The data set whose scores are judged.
    """
    data, truths = read(sets[name]), {item.index: item for item in read(sets[ORACLE]).items}
    shares, scores = list[float](), dict[str, list[float]]()
    for item in data.items:
        found, truth = item.labels(), truths[item.index].labels()
        counted = (found != IGNORE) & (truth != IGNORE)
        for each in item.classes:
            one, other = (labels[counted] == data.about.ids[each] for labels in (found, truth))
            shares.append(float((one & other).sum() / max(1, (one | other).sum())))
            for score, values in item.scores.items():
                if isinstance(values, Mapping):
                    scores.setdefault(score, []).append(values[each])
    return {score: _correlation(values, shares) for score, values in scores.items()}


def _correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    return float(spearmanr(one, other).statistic) if len(set(one)) > 1 and len(set(other)) > 1 else None
