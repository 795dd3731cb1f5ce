"""From outcomes to the figures of the table: means over classes and draws, differences with their spread, slices."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lab.fits.methods import DEFAULT, WORD
from lab.fits.outcome import Outcome, Row
from lab.fits.plan import Outcomes
from lab.fits.scenes import SLICES
from ovam.evaluate import Interval, paired_bootstrap

RESAMPLES = 1000

OfClass = Mapping[str, Sequence[Outcome]]
Chosen = Callable[[Row], bool]


def table(outcomes: Outcomes, *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """All figures, ready for JSON.

    Args:
        outcomes: By method and class; of a method that draws change nothing for, one outcome each.
        resamples: Of the bootstrap.
    """
    word, default = outcomes.get(WORD), outcomes.get(DEFAULT)
    found: dict[str, Any] = {"methods": {name: figures(of_class) for name, of_class in outcomes.items()}}
    for name, of_class in outcomes.items():
        for rival, base in ((WORD, word), (DEFAULT, default)):
            if base is not None and rival != name:
                gap = difference(of_class, base, resamples=resamples)
                found["methods"][name][f"minus {rival}"] = gap.listed()
    if word is not None and default is not None:
        found["slices"] = {name: _slice(name, word, default, resamples) for name in SLICES}
    return found


def figures(of_class: OfClass) -> dict[str, Any]:
    """Figures of one method: mIoU is of counts pooled over the scenes of a class and draw, then a mean."""
    every = [outcome for outcomes in of_class.values() for outcome in outcomes]
    by_draw = draws_of(of_class)
    return {
        "mIoU": float(np.mean(by_draw)),
        "worst draw": min(by_draw),
        "draws": len(by_draw),
        "IoU by image": float(np.mean([np.mean([row.both / row.either for row in each.rows]) for each in every])),
        "AP": precision(of_class),
        "elsewhere": _mean_of_known([each.elsewhere for each in every]),
        "own scene": float(np.mean([each.own[0] / each.own[1] for each in every])),
        "seconds": float(np.median([each.seconds for each in every])),
        "classes": {name: float(np.mean(draws_of({name: each}))) for name, each in of_class.items()},
        "scenes": sum(len(each[0].rows) for each in of_class.values()),
    }


def precision(of_class: OfClass) -> float:
    """Average precision: the mean of a fit's scenes, then of classes and draws."""
    of_fits = [[row.precision for row in each.rows] for outcomes in of_class.values() for each in outcomes]
    return float(np.mean([np.mean(every) for every in of_fits]))


def draws_of(of_class: OfClass, chosen: Chosen = lambda row: True) -> list[float]:
    """Mean over classes of the pooled IoU, draw by draw; classes without a chosen row are left out."""
    reached = [[_iou(outcome.rows, chosen) for outcome in outcomes] for outcomes in of_class.values()]
    return [float(each) for each in np.nanmean(reached, axis=0)]


def _iou(rows: Sequence[Row], chosen: Chosen) -> float:
    kept = [(row.both, row.either) for row in rows if chosen(row)]
    both, either = np.sum(kept, axis=0) if kept else (0, 0)
    return float(both / either) if either else float("nan")


def difference(
    ours: OfClass, theirs: OfClass, chosen: Chosen = lambda row: True, *, resamples: int = RESAMPLES
) -> Interval:
    """By how much the mIoU of one method is above another's, resampled over classes, draws and scenes.

    Only scenes that both were asked of count. A method of one outcome a class stands beside every draw of the other.
    """
    rows, classes, draws = [], [], []
    for number, name in enumerate(name for name in ours if name in theirs):
        for draw, (one, other) in enumerate(_paired(ours[name], theirs[name])):
            known = {row.seed: row for row in other.rows}
            for row in one.rows:
                if chosen(row) and row.seed in known:
                    beside = known[row.seed]
                    rows.append((row.both, row.either, beside.both, beside.either, draw))
                    classes.append(number)
                    draws.append(draw)
    if not rows:
        return Interval(float("nan"), float("nan"), float("nan"))
    levels = [np.array(classes), np.array(draws)]
    return paired_bootstrap(np.array(rows), levels, statistic=_mean_gap, resamples=resamples)


def _paired(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    count = max(len(ours), len(theirs))
    long, short = (list(each) * count if len(each) == 1 else list(each) for each in (ours, theirs))
    return list(zip(long, short, strict=True))


def _mean_gap(rows: np.ndarray, groups: np.ndarray) -> float:
    return mean_over_cells(rows, groups, lambda sums: sums[0] / sums[1] - sums[2] / sums[3])


def mean_over_cells(rows: np.ndarray, groups: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> float:
    """Mean over drawn classes, and in each over its drawn annotations, of something of pooled counts.

    An annotation that was drawn twice counts twice: each weighs by its number of rows, which is the same for all.

    Args:
        rows: (row, column): counts, and the number of the annotation last.
        groups: (row,): number of the drawn class.
        of: From the counts' sums, (column, cell), to a number for each annotation of each class; NaN where they do
            not tell, which is left out.
    """
    counts, width = rows.shape[1] - 1, int(rows[:, -1].max()) + 1
    cells = groups * width + rows[:, -1]
    size = (int(groups.max()) + 1) * width
    weight = np.bincount(cells, minlength=size)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = of(np.stack([np.bincount(cells, rows[:, column], size) for column in range(counts)]))
        weight = np.where(np.isnan(values), 0, weight)
        by_class = np.where(weight > 0, values * weight, 0.0).reshape(-1, width).sum(1)
        means = by_class / weight.reshape(-1, width).sum(1)
    return float(means[~np.isnan(means)].mean()) if not np.isnan(means).all() else float("nan")


def _slice(name: str, word: OfClass, default: OfClass, resamples: int) -> dict[str, Any]:
    def chosen(row: Row) -> bool:
        return name in row.slices

    gap = difference(default, word, chosen, resamples=resamples)
    count = sum(chosen(row) for outcomes in word.values() for row in outcomes[0].rows)
    if not count:
        return {"scenes": 0}
    means = {WORD: float(np.mean(draws_of(word, chosen))), DEFAULT: float(np.mean(draws_of(default, chosen)))}
    return {"scenes": count, **means, "difference": gap.listed()}


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
