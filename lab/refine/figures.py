"""Figures from rows: IoU of each step, what it gains, and the slices."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lab.refine.steps import BASES, Row
from ovam.evaluate import Interval, paired_bootstrap
from ovam.mini.scenes import CLASSES

RESAMPLES = 1000
INNER = slice(2, 4)
_WHOLE = slice(0, 2)


def steps_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the figures of every step that some row has, in the order of the steps."""
    return {step: _step(rows, step) for step in BASES if any(step in row.counts for row in rows)}


def _step(rows: Sequence[Row], step: str) -> dict[str, Any]:
    own = [row for row in rows if step in row.counts]
    base = BASES[step]
    return {
        "iou": iou(own, step),
        "iou_by_picture": float(np.mean([row.counts[step][0] / max(1, row.counts[step][1]) for row in own])),
        "iou_away_from_outlines": iou(own, step, INNER),
        "average_precision": float(np.mean([row.precision[step] for row in own])),
        "masks": len(own),
        "over": base,
        "gain": None if step == base else gain(own, step, base).listed(),
    }


def iou(rows: Sequence[Row], step: str, part: slice = _WHOLE) -> float:
    """Return the mean over the classes of the IoU pooled over their pictures; NaN of no rows."""
    sums: dict[str, np.ndarray] = {}
    for row in rows:
        both = np.array(row.counts[step][part])
        sums[row.name] = sums[row.name] + both if row.name in sums else both
    return float(np.mean([both / max(1, either) for both, either in sums.values()])) if sums else float("nan")


def gain(rows: Sequence[Row], step: str, base: str) -> Interval:
    """Return what a step's IoU is above another one's, with its 95 % interval over classes and pictures."""
    both = [row for row in rows if step in row.counts and base in row.counts]
    if not both:
        return Interval(float("nan"), float("nan"), float("nan"))
    counted = np.array([[*row.counts[step][:2], *row.counts[base][:2]] for row in both])
    groups = np.array([CLASSES.index(row.name) for row in both])
    return paired_bootstrap(counted, [groups], statistic=_difference, resamples=RESAMPLES)


def _difference(counted: np.ndarray, draws: np.ndarray) -> float:
    sums = np.stack([np.bincount(draws, column) for column in counted.T])
    return float((sums[0] / np.maximum(sums[1], 1) - sums[2] / np.maximum(sums[3], 1)).mean())


def slices_of(rows: Sequence[Row], steps: Sequence[str]) -> dict[str, Any]:
    """Return for each slice the IoU of some steps, the gain of the last one over the first, and the number of masks."""
    names = sorted({name for row in rows for name in row.slices})
    found = {}
    for name in names:
        own = [row for row in rows if name in row.slices and all(step in row.counts for step in steps)]
        if own:
            found[name] = {
                "masks": len(own),
                "iou": {step: iou(own, step) for step in steps},
                "gain": gain(own, steps[-1], steps[0]).listed(),
            }
    return found


def where(rows: Sequence[Row], wanted: Callable[[Row], bool]) -> list[Row]:
    """Return the rows that a condition holds for."""
    return [row for row in rows if wanted(row)]
