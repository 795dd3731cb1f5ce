"""How sure a difference is: a paired bootstrap over whatever the numbers are nested in."""

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


def paired_bootstrap(
    rows: np.ndarray,
    levels: Sequence[np.ndarray],
    *,
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """95 % bootstrap interval of a statistic of paired differences, resampled level by level.

    At each level whole groups are drawn with replacement among those of their parent, then the groups below
    within them: first classes, say, then annotations, then images. A group's rows stay together, so both sides
    of every pair see the same draw.

    Args:
        rows: (row, ...): differences, or columns that `statistic` combines.
        levels: Outermost first: for each level, (row,) the group of every row, unique within its parent. The rows
            themselves are the innermost level.
        statistic: From rows to a number; their mean when None.
        resamples: Number of draws.
        seed: Of the draws.
    """
    of = statistic or (lambda chosen: chosen.mean())
    random = np.random.default_rng(seed)
    draws = np.array([of(rows[_draw(np.arange(len(rows)), levels, random)]) for _ in range(resamples)])
    low, high = np.nanquantile(draws, (0.025, 0.975))
    return Interval(float(of(rows)), float(low), float(high))


def _draw(members: np.ndarray, levels: Sequence[np.ndarray], random: np.random.Generator) -> np.ndarray:
    if not levels:
        return random.choice(members, len(members))
    groups = levels[0][members]
    names = np.unique(groups)
    chosen = random.choice(names, len(names))
    return np.concatenate([_draw(members[groups == name], levels[1:], random) for name in chosen])
