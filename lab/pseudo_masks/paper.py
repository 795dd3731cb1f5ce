"""Figures of the paper and its released notebooks, in points of mIoU, to stand beside ours. Stable Diffusion 1.5.

Source: vpulab/ovam at 12afd87, outputs of the notebooks in `experiments/evaluation`; the steps are read off a figure.
"""

from collections.abc import Mapping

MAIN: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "DAAM": {"simple": (66.2, 79.7), "captions": (48.4, 66.1)},
    "OVAM, published": {"simple": (70.4, 82.5), "captions": (58.2, 69.2)},
    "grounded, largest object": {"simple": (62.1, 86.6), "captions": (50.2, 73.2)},
    "datasetdm, as released": {"simple": (80.3, 80.6), "captions": (59.3, 60.5)},
}
"""With words and with tokens, on VOC-sim ("a photograph of a dog") and on COCO-cap (captions). Trained methods stand
there as their authors' code trains them."""

GRIDS: Mapping[str, tuple[float, float]] = {
    "16 + 32 + 64": (70.4, 82.5),
    "16 + 32": (67.0, 80.7),
    "16 + 64": (70.5, 82.2),
    "16": (71.5, 78.9),
    "32 + 64": (50.5, 74.9),
    "32": (30.5, 71.7),
    "64": (40.2, 43.5),
}
"""By grids of 64: with words and with tokens."""

AT_STEP: Mapping[int, tuple[float, float]] = {
    0: (43.0, 42.7),
    2: (47.5, 48.5),
    5: (61.1, 69.0),
    8: (67.2, 80.6),
    10: (67.7, 83.0),
    12: (67.3, 83.5),
    15: (67.2, 82.6),
    20: (64.1, 79.6),
    25: (60.4, 75.2),
    29: (52.0, 65.5),
}
"""One step of 30 alone: with words and with tokens."""
FROM_STEP: Mapping[int, tuple[float, float]] = {
    0: (70.4, 84.1),
    2: (70.6, 83.9),
    5: (70.2, 83.4),
    8: (69.2, 82.6),
    10: (68.4, 81.9),
    12: (67.5, 80.9),
    15: (65.7, 79.4),
    20: (62.8, 76.5),
    25: (58.3, 72.4),
    29: (52.2, 65.5),
}
TO_STEP: Mapping[int, tuple[float, float]] = {
    0: (41.7, 40.3),
    2: (42.6, 42.2),
    5: (49.2, 51.5),
    8: (56.5, 62.6),
    10: (60.7, 68.7),
    12: (63.7, 73.7),
    15: (67.0, 78.4),
    20: (69.3, 82.2),
    25: (70.3, 83.6),
    29: (70.4, 84.1),
}
