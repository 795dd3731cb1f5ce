"""From findings to figures: what each rung adds, which pixels the gain is made of, which parts are found."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from lab.fits.methods import DEFAULT, WORD
from lab.fits.outcome import Outcome, Row
from lab.fits.scenes import GROUNDS
from lab.fits.table import RESAMPLES, difference, draws_of, mean_over_cells, precision
from lab.gain.finding import KINDS, PART_NAMES, Detail, Finding
from lab.gain.ladder import RUNGS
from ovam.evaluate import paired_bootstrap

HITS = "the class itself"
COMPONENTS = (HITS, *KINDS)
"""What the pixels of a gain show: more of the class itself, less of something else."""

ALL = "all"
SLICES = (ALL, *GROUNDS.values())

OfClass = Mapping[str, Sequence[Finding]]
Statistic = Callable[[np.ndarray], np.ndarray]
"""From sums of counts, (column, cell), to a number for each cell."""

_WORD, _TOKEN, _THERE = 1, 1 + len(COMPONENTS), 1 + 2 * len(COMPONENTS)  # where columns of `pixel_rows` begin


def table(findings: Mapping[str, OfClass], *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """All figures, ready for JSON.

    Args:
        findings: By method and class, the finding of each draw; one where draws change nothing.
        resamples: Of the bootstrap.
    """
    outcomes = {
        method: {name: [each.outcome for each in every] for name, every in of_class.items()}
        for method, of_class in findings.items()
    }
    word, token = findings[WORD], findings[DEFAULT]
    rows = {name: part_rows(word, token, name) for name in PART_NAMES}
    return {
        "rungs": _rungs(outcomes, resamples),
        "slices": {name: _pixels(*pixel_rows(word, token, name), resamples) for name in SLICES},
        "parts": {name: _shares(*of_part, resamples) for name, of_part in rows.items() if len(of_part[0])},
        "classes": {name: _class({name: word[name]}, {name: token[name]}) for name in token},
    }


def _rungs(outcomes: Mapping[str, Mapping[str, Sequence[Outcome]]], resamples: int) -> dict[str, Any]:
    """Each rung's mIoU and average precision, and by how much it is above the rung below and above the lowest."""
    found: dict[str, Any] = {}
    names = list(RUNGS)
    for below, name in zip([None, *names], names, strict=False):
        of_class = outcomes[name]
        found[name] = {
            "mIoU": float(np.mean(draws_of(of_class))),
            "AP": precision(of_class),
        }
        for key, base in (("step", below), ("climbed", names[0])) if below else ():
            gap = difference(of_class, outcomes[base], resamples=resamples)
            found[name][key] = gap.listed()
    return found


def _pixels(rows: np.ndarray, classes: np.ndarray, resamples: int) -> dict[str, Any]:
    """The gain by what its pixels show, and of every kind the share that is taken for the class."""
    if not len(rows):
        return {"scenes": 0}
    made = {name: _interval(rows, classes, _component(i), resamples) for i, name in enumerate(COMPONENTS)}
    false = {}
    for kind, name in enumerate(KINDS):
        columns = [_WORD + 1 + kind, _TOKEN + 1 + kind, _THERE + kind, -1]
        known = rows[:, _THERE + kind] > 0
        if known.any():
            false[name] = _shares(rows[known][:, columns], classes[known], resamples)
    return {
        "scenes": int((rows[:, -1] == 0).sum()),
        "gain": _interval(rows, classes, lambda sums: components(sums).sum(0), resamples),
        "components": made,
        "false": false,
    }


def _component(index: int) -> Statistic:
    return lambda sums: components(sums)[index]


def _shares(rows: np.ndarray, classes: np.ndarray, resamples: int) -> dict[str, Any]:
    """What share of some pixels is above the border, word and token.

    Args:
        rows: (row, 4): pixels above the word's border and above the token's, all pixels, the draw.
        classes: (row,): number of the class.
        resamples: Of the bootstrap.
    """
    return {
        "scenes": int((rows[:, -1] == 0).sum()),
        "classes": len(np.unique(classes)),
        WORD: mean_over_cells(rows, classes, lambda sums: sums[0] / sums[2]),
        DEFAULT: mean_over_cells(rows, classes, lambda sums: sums[1] / sums[2]),
        "difference": _interval(rows, classes, lambda sums: (sums[1] - sums[0]) / sums[2], resamples),
    }


def _class(word: OfClass, token: OfClass) -> dict[str, Any]:
    rows, classes = pixel_rows(word, token, ALL)
    return {
        WORD: mean_over_cells(rows, classes, lambda sums: iou(sums, _WORD)),
        DEFAULT: mean_over_cells(rows, classes, lambda sums: iou(sums, _TOKEN)),
        "components": {name: mean_over_cells(rows, classes, _component(i)) for i, name in enumerate(COMPONENTS)},
    }


def iou(sums: np.ndarray, first: int) -> np.ndarray:
    """IoU of each cell, from the columns that begin at `first`: what is found of the class, and of every kind."""
    return sums[first] / (sums[0] + sums[first + 1 : first + len(COMPONENTS)].sum(0))


def components(sums: np.ndarray) -> np.ndarray:
    """What each kind of pixel contributes to the token's IoU minus the word's, (component, cell): they sum to it.

    An IoU is no sum over pixels. The contribution is Shapley's: what the IoU changes by when the word's pixels of one
    kind are replaced by the token's, a mean over all orders in which the kinds can be replaced one after the other.
    """
    count = len(COMPONENTS)
    word, token = sums[_WORD : _WORD + count], sums[_TOKEN : _TOKEN + count]

    def reached(replaced: tuple[int, ...]) -> np.ndarray:
        now = np.stack([(token if i in replaced else word)[i] for i in range(count)])
        return now[0] / (sums[0] + now[1:].sum(0))

    found = np.zeros_like(word, dtype=float)
    for size in range(count):
        orders = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
        for i in range(count):
            for before in combinations([other for other in range(count) if other != i], size):
                found[i] += orders * (reached((*before, i)) - reached(before))
    return found


def pixel_rows(word: OfClass, token: OfClass, slice_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Counts of every scene of a slice, and the number of its class.

    Returns:
        (row, column): pixels of the class; above the word's border those of the class and of each kind; the same of
        the token's; all pixels of each kind; the draw. And (row,).
    """
    rows, classes = [], []
    for number, draw, row, beside, ours, theirs in _paired(word, token):
        if slice_name == ALL or slice_name in row.slices:
            truth = row.either - sum(ours.false)
            rows.append((truth, beside.both, *theirs.false, row.both, *ours.false, *ours.there, draw))
            classes.append(number)
    return np.array(rows, dtype=int), np.array(classes, dtype=int)


def part_rows(word: OfClass, token: OfClass, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Counts of every scene that shows a part, for `_shares`."""
    rows, classes = [], []
    for number, draw, _, _, ours, theirs in _paired(word, token):
        if part in ours.parts:
            found, every = ours.parts[part]
            rows.append((theirs.parts[part][0], found, every, draw))
            classes.append(number)
    return np.array(rows, dtype=int), np.array(classes, dtype=int)


def _paired(word: OfClass, token: OfClass) -> Iterator[tuple[int, int, Row, Row, Detail, Detail]]:
    """Class, draw, and row and detail of the token, each followed by the word's of the same scene."""
    for number, name in enumerate(token):
        (beside,) = word[name]
        for draw, ours in enumerate(token[name]):
            every = zip(ours.outcome.rows, beside.outcome.rows, ours.details, beside.details, strict=True)
            for row, other, detail, others in every:
                yield number, draw, row, other, detail, others


def _interval(rows: np.ndarray, classes: np.ndarray, of: Statistic, resamples: int) -> list[float]:
    """A mean over cells with its 95 % interval, resampled over classes, draws and scenes."""

    def statistic(drawn: np.ndarray, groups: np.ndarray) -> float:
        return mean_over_cells(drawn, groups, of)

    return paired_bootstrap(rows, [classes, rows[:, -1]], statistic=statistic, resamples=resamples).listed()
