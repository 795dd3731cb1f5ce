"""What needs no model and must not look good: maps from colours and position alone, the gates of the world.

Each gives one word-blind score map, which stands for every class that the image is known to show. The threshold
is the best one on validation scenes.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy.cluster.vq import kmeans2

from ovam.evaluate import Confusion
from ovam.mini.scenes import CLASSES, SIDE, Scene, Split, render, seed_of

GATE = 0.45
"""No baseline may reach a higher mIoU on test scenes: where one does, the world is too easy."""

_EDGE, _EDGE_COLOURS, _COLOURS, _SEED = 2, 4, 8, 0
_THRESHOLDS = np.linspace(0.02, 0.98, 49)

Baseline = Callable[[np.ndarray], np.ndarray]


def _edge(image: np.ndarray) -> np.ndarray:
    inside = np.zeros(image.shape[:2], dtype=bool)
    inside[_EDGE:-_EDGE, _EDGE:-_EDGE] = True
    return ~inside


def _scaled(score: np.ndarray) -> np.ndarray:
    low, high = score.min(), score.max()
    return (score - low) / max(1e-9, high - low)


def border_colour(image: np.ndarray) -> np.ndarray:
    """Distance of each pixel's colour to the mean colour of the picture's edge, (height, width), in [0, 1]."""
    pixels = image.astype(float)
    return _scaled(np.linalg.norm(pixels - pixels[_edge(image)].mean(0), axis=-1))


def border_colours(image: np.ndarray) -> np.ndarray:
    """Distance to the nearest of the edge's few main colours, so that sky above grass is no object."""
    pixels = image.astype(float)
    centres, _ = kmeans2(pixels[_edge(image)], _EDGE_COLOURS, minit="++", seed=_SEED)
    return _scaled(np.linalg.norm(pixels[:, :, None] - centres, axis=-1).min(-1))


def centre_disc(image: np.ndarray) -> np.ndarray:
    """Nearness to the middle, (height, width), in [0, 1]."""
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return _scaled(-np.hypot(x, y))


def colour_clusters(image: np.ndarray) -> np.ndarray:
    """Clusters of colour, scored by how seldom they touch the edge of the picture: (height, width), in [0, 1]."""
    pixels = image.reshape(-1, 3).astype(float)
    _, cluster = kmeans2(pixels, _COLOURS, minit="++", seed=_SEED)
    edge = np.bincount(cluster[_edge(image).ravel()], minlength=_COLOURS) / _edge(image).sum()
    share = np.bincount(cluster, minlength=_COLOURS) / len(cluster)
    return (share / (share + edge + 1e-9))[cluster].reshape(image.shape[:2])


def constant(image: np.ndarray) -> np.ndarray:
    """One everywhere, (height, width): what it reaches is the share of the pixels that things take."""
    return np.ones(image.shape[:2])


BASELINES: dict[str, Baseline] = {
    "distance to the border colour": border_colour,
    "distance to the border's colours": border_colours,
    "centre disc": centre_disc,
    "colour clusters": colour_clusters,
}


def class_iou(scenes: Iterable[Scene], masks: Iterable[np.ndarray]) -> float:
    """Mean over classes of the IoU pooled over the images that show the class, one word-blind mask an image."""
    counts = {name: Confusion.empty(2) for name in CLASSES}
    for scene, mask in zip(scenes, masks, strict=True):
        for name in {thing.name for thing in scene.objects}:
            counts[name] += Confusion.of(mask, scene.mask(name), 2, ignore=None)
    found = [confusion.iou()[1] for confusion in counts.values() if confusion.counts[1].any()]
    return float(np.mean(found))


def gates(*, scenes: int = 200, size: int = SIDE) -> dict[str, dict[str, float]]:
    """Each baseline's threshold, chosen on validation scenes, and its mIoU on as many test scenes."""
    validation, test = (_scenes(split, scenes, size) for split in ("validation", "test"))
    found = {}
    for name, baseline in (BASELINES | {"constant": constant}).items():
        scores = [baseline(scene.image) for scene in validation]
        reached = [class_iou(validation, [score >= threshold for score in scores]) for threshold in _THRESHOLDS]
        threshold = _THRESHOLDS[int(np.argmax(reached))]
        masks = [baseline(scene.image) >= threshold for scene in test]
        found[name] = {"threshold": float(threshold), "miou": class_iou(test, masks)}
    return found


def _scenes(split: Split, count: int, size: int) -> Sequence[Scene]:
    return [render(seed_of(split, i), split=split, size=size) for i in range(count)]
