"""How good the masks of the generated pictures are, by what the oracles see; which filters find good ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from lab.training.study import ORACLE
from ovam.dataset.filters import by_quantile, random_subset
from ovam.dataset.item import Item
from ovam.dataset.layout import Dataset, read
from ovam.evaluate import Confusion
from ovam.masks.mask_like import IGNORE

AREA, RANDOM = "area", "at random"


@dataclass(frozen=True, eq=False)
class Judged:
    """An item beside what the oracles see.

    Attributes:
        item: The item.
        confusion: Pixels by its mask and the oracles', where both are decided.
        undecided: Share of its undecided pixels, in [0, 1].
        shares: IoU of each of its classes; 0 if neither mask has it.
        drawn: Whether the oracles see each of its classes anywhere.
    """

    item: Item
    confusion: Confusion
    undecided: float
    shares: Mapping[str, float]
    drawn: Mapping[str, bool]


def quality(sets: Mapping[str, Path], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return for each data set its number of pictures, mIoU with the oracles' masks, and share of undecided pixels.

    Pixels that are undecided in either mask do not count; the classes' mean includes the background.

    Args:
        sets: Folders by name, the oracles' among them.
        names: Data sets to judge; their pictures are some of the oracles'.
    """
    truths = read(sets[ORACLE])
    return [{"set": name, **_summed(judged(read(sets[name]), truths))} for name in names]


def halves(sets: Mapping[str, Path], name: str) -> list[dict[str, Any]]:
    """Return the figures of about half of a data set, as each filter chooses it, and of as many pictures at random.

    Args:
        sets: Folders by name, the oracles' among them.
        name: The data set.
    """
    data = read(sets[name])
    items, of = _with_usual_areas(data.items), {one.item.index: one for one in judged(data, read(sets[ORACLE]))}
    by_class = [score for score, value in items[0].scores.items() if isinstance(value, Mapping)]
    chosen: dict[str, Sequence[Item]] = {score: by_quantile(items, score, 0.5) for score in by_class}
    chosen[RANDOM] = random_subset(items, (len(items) + 1) // 2, data.about.recipe)
    return [{"filter": key, **_summed([of[item.index] for item in some])} for key, some in chosen.items()]


def _with_usual_areas(items: Sequence[Item]) -> list[Item]:
    """Return items with a score that is highest where the area of a mask is the median of its class."""
    areas: dict[str, list[float]] = {}
    for item in items:
        for name, area in item.areas.items():
            areas.setdefault(name, []).append(area)

    def usual(name: str, area: float) -> float:
        return -abs(float(np.mean(np.array(areas[name]) < area)) - 0.5)

    return [
        replace(item, scores={**item.scores, AREA: {name: usual(name, area) for name, area in item.areas.items()}})
        for item in items
    ]


def ranked(sets: Mapping[str, Path], name: str) -> dict[str, float | None]:
    """Return how well each score tells good masks: its rank correlation with the IoU of a mask and the oracles'.

    Each class of each picture counts once; a class that neither mask has counts as an IoU of 0. A correlation is None
    if all scores or all shares are alike.

    Args:
        sets: Folders by name, the oracles' among them.
        name: The data set whose scores are judged.
    """
    shares, scores = list[float](), dict[str, list[float]]()
    for one in judged(read(sets[name]), read(sets[ORACLE])):
        shares += one.shares.values()
        for score, values in one.item.scores.items():
            if isinstance(values, Mapping):
                scores.setdefault(score, []).extend(values[each] for each in one.shares)
    return {score: _correlation(values, shares) for score, values in scores.items()}


def judged(data: Dataset, truths: Dataset) -> list[Judged]:
    """Compare all masks of a data set with those of the same pictures in another one."""
    of = {item.index: item for item in truths.items}
    return [_judged(item, item.labels(), of[item.index].labels(), data.about.ids) for item in data.items]


def _judged(item: Item, mask: np.ndarray, truth: np.ndarray, ids: Mapping[str, int]) -> Judged:
    label_of = np.full(256, IGNORE, dtype=np.uint8)
    label_of[[0, *ids.values()]] = np.arange(len(ids) + 1)
    counted = (mask != IGNORE) & (truth != IGNORE)
    shares = dict[str, float]()
    for name in item.classes:
        one, other = (labels[counted] == ids[name] for labels in (mask, truth))
        shares[name] = float((one & other).sum() / max(1, (one | other).sum()))
    confusion = Confusion.of(
        label_of[mask], np.where(counted, label_of[truth], IGNORE).astype(np.uint8), len(ids) + 1, ignore=IGNORE
    )
    drawn = {name: bool((truth == ids[name]).any()) for name in item.classes}
    return Judged(item, confusion, float((mask == IGNORE).mean()), shares, drawn)


def _summed(ones: Sequence[Judged]) -> dict[str, Any]:
    total = Confusion.empty(len(ones[0].confusion.counts))
    for one in ones:
        total += one.confusion
    drawn = [seen for one in ones for seen in one.drawn.values()]
    return {
        "pictures": len(ones),
        "miou": 100 * total.mean_iou(),
        "undecided": 100 * float(np.mean([one.undecided for one in ones])),
        "drawn": 100 * float(np.mean(drawn)),
    }


def _correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    return float(spearmanr(one, other).statistic) if len(set(one)) > 1 and len(set(other)) > 1 else None
