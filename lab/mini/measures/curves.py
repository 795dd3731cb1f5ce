"""Does mini behave like Stable Diffusion 1.5? Curves over resolutions and time steps beside the paper's."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.progress import track
from scipy.stats import rankdata

from lab.mini.measures.asking import enlarged
from lab.mini.measures.generation import LEAST_AREA
from lab.mini.measures.images import Entry, regenerated
from lab.mini.oracle import IGNORE, agreed_labels
from ovam.evaluate import paired_bootstrap
from ovam.mini.scenes import CLASSES, LABELS
from ovam.trace.blocks import ALL
from ovam.tracing.capture import capture

RESOLUTIONS = {
    "coarsest middle finest": 70.4,
    "coarsest middle": 67.0,
    "coarsest finest": 70.5,
    "coarsest": 71.5,
    "middle finest": 50.5,
    "middle": 30.5,
    "finest": 40.2,
}
"""Stable Diffusion 1.5, plain words, VOC-sim, mIoU with self-attention and CRF: grids of 16, 32 and 64."""

CALLS = (0, 2, 5, 8, 10, 12, 15, 20, 25, 29)
ONE_CALL = (43.0, 47.5, 61.1, 67.2, 67.7, 67.3, 67.2, 64.1, 60.4, 52.0)
FROM_CALL = (70.4, 70.6, 70.2, 69.2, 68.4, 67.5, 65.7, 62.8, 58.3, 52.2)
UP_TO_CALL = (41.7, 42.6, 49.2, 56.5, 60.7, 63.7, 67.0, 69.3, 70.3, 70.4)
"""The same by denoiser call, read off the paper's figure, within 0.3; those from a call on begin one call later."""

THRESHOLD = 0.5
"""Of stretched maps, for every setting alike; chosen before any of them was looked at."""

PER_CLASS = (
    *(50.0, 52.8, 72.0, 59.0, 68.2, 86.7, 79.3, 78.9, 34.2, 85.4),
    *(24.6, 81.8, 81.6, 70.0, 53.1, 68.4, 86.2, 64.7, 52.0, 74.1),
)
"""Stable Diffusion 1.5, plain words by DAAM's rule on VOC-sim, IoU of each class."""

_THRESHOLDS = np.linspace(0.2, 0.8, 13)
_Rows = Sequence[tuple[np.ndarray, np.ndarray]]


def measure_curves(pipe: Any, entries: Sequence[Entry]) -> dict[str, Any]:
    """Mean IoU of the prompt's class word by resolutions and by denoiser calls, with Spearman's rank correlation.

    Pictures of one class each, 30 steps, stretched maps, no refinement. IoU is pooled for each class, then averaged
    over the classes; one threshold for all, and as an oracle's column the one that suits each setting best.

    Args:
        pipe: The model that made the pictures.
        entries: Manifest of the *simple* set; pictures where the oracles do not see the asked class are left out.
    """
    found: dict[str, list[tuple[dict[str, np.ndarray], np.ndarray]]] = {}
    for entry in track(entries, "curves"):
        with capture(pipe, blocks=ALL) as traces:
            picture = regenerated(pipe, entry)
        labels, (name,) = agreed_labels(picture[None])[0], entry.classes
        if (labels == LABELS[name]).mean() >= LEAST_AREA:
            truth = np.where(labels == IGNORE, -1, labels == LABELS[name])
            found.setdefault(name, []).append((_maps(traces[0], entry.prompt, name), truth))
    images = sum(map(len, found.values()))
    if not images:
        return {"images": 0, "left_out": len(entries)}
    ignored = np.mean([(truth < 0).mean() for rows in found.values() for _, truth in rows])
    by_setting = {
        key: [[(maps[key], truth) for maps, truth in rows] for rows in found.values()]
        for key in next(iter(found.values()))[0][0]
    }
    curves = {key: class_ious(classes, (THRESHOLD,)) for key, classes in by_setting.items()}
    overlaps = {key: np.concatenate([_overlaps(rows) for rows in classes]) for key, classes in by_setting.items()}
    groups = np.repeat(np.arange(len(found)), [len(rows) for rows in found.values()])
    best = {key: class_ious(classes, _THRESHOLDS) for key, classes in by_setting.items()}
    known = np.array([PER_CLASS[CLASSES.index(name)] for name in found])
    settings = {
        "resolutions": ({name: name for name in RESOLUTIONS}, tuple(RESOLUTIONS.values())),
        "one call": ({str(t): f"={t}" for t in CALLS}, ONE_CALL),
        "from call": ({str(t): f">={t}" for t in CALLS}, FROM_CALL),
        "up to call": ({str(t): f"<={t}" for t in CALLS}, UP_TO_CALL),
    }
    return {
        "images": images,
        "left_out": len(entries) - images,
        "ignored": float(ignored),
        "threshold": THRESHOLD,
        "classes": {
            "mini": dict(zip(found, curves["every"].tolist(), strict=True)),
            "mini, best threshold": {
                name: float(class_ious([rows], _THRESHOLDS)[0])
                for name, rows in zip(found, by_setting["every"], strict=True)
            },
            "stable_diffusion": dict(zip(found, known.tolist(), strict=True)),
            "spearman": across_classes(overlaps["every"], groups, known),
        },
    } | {
        title: {
            "mini": {name: float(curves[key].mean()) for name, key in keys.items()},
            "mini, best threshold": {name: float(best[key].mean()) for name, key in keys.items()},
            "stable_diffusion": dict(zip(keys, values, strict=True)),
            "spearman": across_settings(np.stack([overlaps[key] for key in keys.values()], axis=1), groups, values),
        }
        for title, (keys, values) in settings.items()
    }


def _maps(trace: Any, prompt: str, name: str) -> dict[str, np.ndarray]:
    """Maps of the class word by subset, each at the finest grid."""
    apart = trace.maps(prompt, phrases=[name], keep=("block", "step"))[name].numpy()  # (block, step, height, width)
    blocks = list(trace.blocks.values())
    grids = sorted({block.grid for block in blocks})
    size = dict(zip(grids, ("coarsest", "middle", "finest"), strict=True))
    heads = np.array([block.heads for block in blocks], dtype=float)
    found = {}
    for subset in RESOLUTIONS:
        weights = heads * [size[block.grid] in subset.split() for block in blocks]
        found[subset] = np.average(apart.mean(1), axis=0, weights=weights)
    every = np.average(apart, axis=0, weights=heads)  # (step, height, width)
    found["every"] = every.mean(0)
    for t in CALLS:
        found |= {f"={t}": every[t], f">={t}": every[t:].mean(0), f"<={t}": every[: t + 1].mean(0)}
    return found


def class_ious(classes: Sequence[_Rows], thresholds: Iterable[float]) -> np.ndarray:
    """Pooled IoU of each class, (class,), at the one of the thresholds that has the best mean.

    Args:
        classes: For each class its pictures' maps (rows, columns) and truths (height, width): 1, 0, or -1 for
            pixels that count for nothing.
        thresholds: Of maps stretched to [0, 1].
    """
    flat = []
    for rows in classes:
        scores, truths = zip(*(_counted(values, truth) for values, truth in rows), strict=True)
        flat.append((np.concatenate(scores), np.concatenate(truths)))
    reached = [
        np.array([(right & (score > t)).sum() / max(1, (right | (score > t)).sum()) for score, right in flat])
        for t in thresholds
    ]
    return max(reached, key=np.mean)


def _counted(values: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    stretched = enlarged((values - values.min()) / max(1e-9, np.ptp(values)), len(truth))
    return stretched[truth >= 0], truth[truth >= 0] == 1


def _overlaps(rows: _Rows) -> np.ndarray:
    """Pixels in both map and truth, and in either, of each picture at the threshold: (picture, 2)."""
    counted = (_counted(values, truth) for values, truth in rows)
    return np.array(
        [((right & (score > THRESHOLD)).sum(), (right | (score > THRESHOLD)).sum()) for score, right in counted]
    )


def across_settings(overlaps: np.ndarray, classes: np.ndarray, known: Sequence[float]) -> list[float]:
    """Rank correlation of the settings' mean IoU of the classes with known figures, with its bounds.

    Args:
        overlaps: Pixels in both and in either, (picture, setting, 2).
        classes: Class of each picture, (picture,).
        known: The other model's figure of each setting.

    Returns:
        The value and the 95 % bootstrap interval over classes and the pictures of each.
    """

    def statistic(rows: np.ndarray, draws: np.ndarray) -> float:
        return _spearman(np.mean([_pooled(rows[draws == draw]) for draw in np.unique(draws)], axis=0), known)

    return paired_bootstrap(overlaps, [classes], statistic=statistic, resamples=1000).listed()


def across_classes(overlaps: np.ndarray, classes: np.ndarray, known: np.ndarray) -> list[float]:
    """The same across classes: overlaps (picture, 2), and the other model's figure of each class, (class,)."""

    def statistic(rows: np.ndarray, draws: np.ndarray) -> float:
        drawn = [rows[draws == draw] for draw in np.unique(draws)]
        return _spearman(np.array([_pooled(each[:, :2]) for each in drawn]), np.array([each[0, 2] for each in drawn]))

    rows = np.column_stack([overlaps, known[classes]])
    return paired_bootstrap(rows, [classes], statistic=statistic, resamples=1000).listed()


def _pooled(overlaps: np.ndarray) -> np.ndarray | np.floating[Any]:
    """IoU of pictures (picture, ..., 2) together."""
    both, either = np.moveaxis(overlaps.sum(0), -1, 0)
    return both / np.maximum(1, either)


def _spearman(found: np.ndarray, known: Sequence[float] | np.ndarray) -> float:
    """Rank correlation; NaN where one side has less than two values."""
    ranks = [rankdata(values) for values in (found, known)]
    return float(np.corrcoef(*ranks)[0, 1]) if all(np.ptp(each) for each in ranks) else float("nan")
