"""Chances of the training scenes: those of several things and of rare classes are drawn more often than others."""

import numpy as np

from ovam.mini.scenes import CLASSES, LABELS

SHARES = (0.5, 0.35, 0.15)
"""Chance to draw a scene of one class, of two, and of three or more.

In a scene of one thing the denoiser can do without knowing which place a word means; among several it can't.
"""

_EVERY = 4  # pixels: smaller things are of no account here


def classes_shown(labels: np.ndarray) -> np.ndarray:
    """Whether each scene shows each class, (scene, class) bool; things smaller than some pixels may be missed.

    Args:
        labels: Label maps, (scene, height, width), of `ovam.mini.scenes.LABELS`.
    """
    coarse = np.asarray(labels[:, ::_EVERY, ::_EVERY])
    return np.stack([(coarse == LABELS[name]).any(axis=(1, 2)) for name in CLASSES], axis=1)


def chances(shown: np.ndarray) -> np.ndarray:
    """Chance of each scene to be drawn, (scene,), with sum 1: `SHARES` by number of classes, rare classes first.

    Among scenes with as many classes, the chance is proportional to the mean of 1 / frequency over a scene's classes.

    Args:
        shown: As `classes_shown` gives it.
    """
    counts = shown.sum(axis=1).clip(1, len(SHARES))
    rarity = 1 / shown.sum(axis=0).clip(1)
    weights = np.where(shown.any(axis=1), (shown * rarity).sum(axis=1) / shown.sum(axis=1).clip(1), rarity.min())
    found = np.zeros(len(shown))
    for count, share in enumerate(SHARES, start=1):
        there = counts == count
        if there.any():
            found[there] = share * weights[there] / weights[there].sum()
    scaled: np.ndarray = found / found.sum()
    return scaled
