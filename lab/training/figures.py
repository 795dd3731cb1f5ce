"""From counts to figures: mean IoU by seed, its spread, differences with their 95 % bounds, and the bars."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lab.training.study import (
    AT_RANDOM,
    ORACLE,
    REFINED,
    SELECTED,
    SETS,
    TOKENS,
    WORDS,
    Row,
    Study,
    mixed_name,
    real_name,
)
from ovam.evaluate import Interval, paired_bootstrap

RESAMPLES = 1000

Counts = Mapping[str, np.ndarray]
"""By name of the row: pixels in both, in either and in the truth, (seed, picture, label, 3)."""


def miou(counts: np.ndarray, *, background: bool = True) -> float:
    """Mean IoU in [0, 1], pooled per label over the pictures, then over the labels that are true somewhere.

    Args:
        counts: (picture, label, 3), label 0 is the background.
        background: Whether it is one of the labels.
    """
    both, either, true = counts[:, 0 if background else 1 :].sum(0).T
    known = true > 0
    return float((both[known] / either[known]).mean()) if known.any() else float("nan")


def by_seed(counts: np.ndarray, *, background: bool = True) -> list[float]:
    """Mean IoU of each seed."""
    return [miou(each, background=background) for each in counts]


def table(rows: Sequence[Row], found: Mapping[str, Counts]) -> list[dict[str, Any]]:
    """A line for each row, in points: mean over the seeds, least and greatest, of each test set."""
    lines = []
    for row in rows:
        line: dict[str, Any] = {"row": row.name, "labels": row.labels}
        for name in SETS:
            counts = found[name][row.name]
            values = [100 * value for value in by_seed(counts)]
            line[name] = {
                "mean": float(np.mean(values)),
                "least": min(values),
                "most": max(values),
                "without background": _known(100 * float(np.mean(by_seed(counts, background=False)))),
            }
        lines.append(line)
    return lines


def _known(value: float) -> float | None:
    """The value, or None where it is NaN, which JSON does not have."""
    return None if np.isnan(value) else value


def difference(counts: Counts, above: str, below: str) -> Interval:
    """By how many points one row is above another on the same pictures, with bounds over pictures; mean over seeds."""
    return _compared(counts, above, below, lambda one, other: 100 * (one - other))


def ratio(counts: Counts, above: str, below: str) -> Interval:
    """One row as a share of another in percent, with bounds over pictures; of the means over seeds."""
    return _compared(counts, above, below, lambda one, other: 100 * one / other if other else float("nan"))


def _compared(counts: Counts, above: str, below: str, of: Any) -> Interval:
    pairs = np.stack([counts[above], counts[below]]).transpose(2, 0, 1, 3, 4)  # picture first: those are drawn

    def statistic(rows: np.ndarray, draws: np.ndarray) -> float:
        one, other = (float(np.mean(by_seed(rows[:, side].swapaxes(0, 1)))) for side in (0, 1))
        return float(of(one, other))

    return paired_bootstrap(pairs, [], statistic=statistic, resamples=RESAMPLES)


def bars(study: Study, found: Mapping[str, Counts]) -> list[dict[str, Any]]:
    """The bars with their figures, on each test set."""
    real, most = study.mixed, real_name(max(study.real))
    mixed = mixed_name(real, REFINED)
    wanted = [
        (f"{TOKENS} above {WORDS}, generated alone", difference, TOKENS, WORDS, 3.0),
        (f"{REFINED} as a share of {ORACLE}, generated alone", ratio, REFINED, ORACLE, 95.0),
        (f"{REFINED} as a share of {most}", ratio, REFINED, most, 90.0),
        (f"{mixed} above {real_name(real)}", difference, mixed, real_name(real), 6.0),
        (f"{mixed} above {real_name(real)} (stretch)", difference, mixed, real_name(real), 8.0),
        (f"{SELECTED} above all of {REFINED}", difference, SELECTED, REFINED, 0.0),
        (f"{SELECTED} above {AT_RANDOM}", difference, SELECTED, AT_RANDOM, 0.0),
    ]
    lines = []
    for name in SETS:
        for bar, compare, above, below, least in wanted:
            value = compare(found[name], above, below)
            unit = "%" if compare is ratio else "points"
            met = bool(value.value >= least)
            lines.append({"bar": bar, "set": name, "unit": unit, "least": least, "figure": value.listed(), "met": met})
    return lines
