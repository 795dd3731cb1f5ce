"""How certain a difference is: a paired bootstrap over nested groups, such as classes, annotations and images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def listed(self) -> list[float]:
        """Return value, low and high as a list, for reports."""
        return [self.value, self.low, self.high]


def paired_bootstrap(
    rows: np.ndarray,
    levels: Sequence[np.ndarray],
    *,
    statistic: Callable[[np.ndarray, np.ndarray], float] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the 95 % bootstrap interval of a statistic of paired differences, resampled level by level.

    At each level whole groups are drawn with replacement among those of their parent, then the groups below
    within them: first classes, say, then annotations, then images. A group's rows stay together, so both sides
    of every pair see the same draw.

    Args:
        rows: (row, ...): differences, or columns that `statistic` combines.
        levels: Outermost first: for each level, (row,) the group of every row, unique within its parent. The rows
            themselves are the innermost level.
        statistic: A function of the drawn rows and an array (row,), which returns a number; None means the mean of the
            rows. The array says to which draw of the outermost level each row belongs, from 0. A class that is drawn
            twice gives two draws: pool the rows of each draw, then take the mean over draws. Without levels every row
            is a draw of its own. Resamples whose statistic is NaN are left out.
        resamples: Number of draws.
        seed: Seed of the draws.
    """
    of = statistic or _mean
    random = np.random.default_rng(seed)
    everything = np.arange(len(rows))
    draws = (_draw(everything, levels, random) for _ in range(resamples))
    values = np.array([of(rows[chosen], draw) for chosen, draw in draws])
    known = values[~np.isnan(values)]
    low, high = np.quantile(known, (0.025, 0.975)) if known.size else (np.nan, np.nan)
    groups = np.unique(levels[0], return_inverse=True)[1] if levels else everything
    return Interval(float(of(rows, groups)), float(low), float(high))


def _mean(rows: np.ndarray, draws: np.ndarray) -> float:
    return float(rows.mean())


def _draw(
    members: np.ndarray, levels: Sequence[np.ndarray], random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Members drawn with replacement, group by group, and the number of the outermost draw that each comes with."""
    if not levels:
        return random.choice(members, len(members)), np.arange(len(members))
    groups = levels[0][members]
    names = np.unique(groups)
    drawn = [_draw(members[groups == name], levels[1:], random)[0] for name in random.choice(names, len(names))]
    return np.concatenate(drawn), np.repeat(np.arange(len(drawn)), [len(each) for each in drawn])
