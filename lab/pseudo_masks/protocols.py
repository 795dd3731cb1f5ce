"""How two papers score maps of words on public benchmarks: from values to counts, and from counts to figures.

Facts: helblazer811/ConceptAttention at db30c4d, `experiments/imagenet_segmentation` and
`experiments/pascal_voc_segmentation`; Darkbblue/goca at 475892f, `src-main/components/downstream_dispatch.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ovam.evaluate import Confusion, average_precision
from ovam.train.classes import IGNORE
from ovam.voc_names import VOC

ValuesOf = Callable[[str], np.ndarray]
"""From a word to its values, (height, width) float."""

SIDE, MEASURED = 224, 512
"""ConceptAttention scores squares of 224, and shows the model squares of 512, whatever the picture's proportions."""
RIVALS = {
    "imagenet": ("background", "floor", "tree", "person", "grass", "face"),
    "voc": ("background", "floor", "grass", "tree", "sky"),
}
"""ConceptAttention's contrast words. GoCA's come from a caption of each picture; here they are those of "voc"."""

CONCEPT_WORDS = VOC | {1: "plane", 2: "bike", 11: "table", 14: "motorcycle", 16: "pot", 20: "monitor"}
"""ConceptAttention's words for Pascal VOC's classes."""
GOCA_WORDS = VOC | {11: "dining table|table", 15: "person|man|woman|child|kid", 20: "television"}
"""GoCA's words, with their synonyms."""

OFFSETS = (-0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4)
"""GoCA's offsets of the background; its code prints the figure of each."""


def nearest(values: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Values or labels (height, width) as a square, each pixel that of the nearest one."""
    exact = values.astype(np.float32) if values.dtype.kind == "f" else values
    resized = Image.fromarray(exact).resize((side, side), Image.Resampling.NEAREST)
    return np.asarray(resized)


def stretched(values: np.ndarray) -> np.ndarray:
    """Values brought to [0, 1]; zeros where they are all the same."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def concept_counts(values_of: ValuesOf, word: str, rivals: Sequence[str], truth: np.ndarray) -> dict[str, Any]:
    """Counts of one picture by ConceptAttention.

    Args:
        values_of: The maps.
        word: Of the picture's one class.
        rivals: Contrast words; one that is the word itself is left out.
        truth: (224, 224) uint8: 1 for the class, 0 for all else, 255 for pixels left open.

    Returns:
        `mean`: counts of the mask "above the map's own mean"; `argmax`: of the mask "above all contrast words". Each is
        [right of the class, wrongly the class, missed, right of all else], in pixels. `precision`: average precision
        of the stretched map and its opposite together, as in their code.
    """
    known = truth != IGNORE
    right = truth[known] == 1
    own = values_of(word)
    small = nearest(own)
    above = np.ones_like(small, dtype=bool)
    for rival in rivals:
        if rival != word:
            above &= small > nearest(values_of(rival))
    soft = stretched(small)[known]
    both = average_precision(np.concatenate([~right, right]), np.concatenate([1 - soft, soft]))
    masks = {"mean": small > own.mean(), "argmax": above}
    return {name: _four(mask[known], right) for name, mask in masks.items()} | {"precision": both}


def _four(mask: np.ndarray, right: np.ndarray) -> list[int]:
    return [int(each.sum()) for each in (mask & right, mask & ~right, ~mask & right, ~mask & ~right)]


def concept_figures(counts: Sequence[Mapping[str, Any]], cut: str) -> dict[str, float]:
    """Figures of all pictures together, in [0, 1].

    `mIoU` is the mean of the IoU of the class and of all else, pooled. `released mIoU` is what their code for
    ImageNet-Segmentation gives: it counts a mask and its opposite as one, so its IoU of both is accuracy / (2 -
    accuracy), and says nothing that the accuracy does not.
    """
    hits, wrong, missed, rest = np.sum([one[cut] for one in counts], axis=0, dtype=float)
    accuracy = (hits + rest) / (hits + wrong + missed + rest)
    iou = [hits / (hits + wrong + missed), rest / (rest + wrong + missed)]
    return {
        "accuracy": float(accuracy),
        "mIoU": float(np.mean(iou)),
        "released mIoU": float(accuracy / (2 - accuracy)),
        "mAP": float(np.mean([one["precision"] for one in counts])),
    }


def goca_labels(values_of: ValuesOf, words: Mapping[int, str], rivals: Sequence[str], offset: float) -> np.ndarray:
    """Label map by GoCA: the greatest of the classes' stretched maps and the background, (height, width) uint8.

    The background is the greatest of the contrast words' stretched maps, plus an offset. Of equal values the background
    wins, then the lower number.

    Args:
        values_of: The maps.
        words: Of the classes that are in the picture, by number; their list is given.
        rivals: Contrast words.
        offset: Of the background.
    """
    background = np.max([stretched(values_of(rival)) for rival in rivals], axis=0) + offset
    numbers = [0, *words]
    planes = np.stack([background, *(stretched(values_of(word)) for word in words.values())])
    return np.array(numbers, np.uint8)[planes.argmax(0)]


def goca_counts(
    values_of: ValuesOf, words: Mapping[int, str], rivals: Sequence[str], truth: np.ndarray, labels: int
) -> dict[str, Any]:
    """Counts of one picture by GoCA, for every offset.

    Args:
        values_of: The maps.
        words: Of all classes, by number.
        rivals: Contrast words.
        truth: (height, width) uint8; 255 for pixels left open.
        labels: Number of labels with the background.

    Returns:
        By offset: `open` without the pixels left open, `released` with them as background, as in their code; each a
        table (true label, predicted label).
    """
    there = {number: word for number, word in words.items() if (truth == number).any()}
    found = {}
    for offset in OFFSETS:
        guess = goca_labels(values_of, there, rivals, offset)
        background = np.where(truth == IGNORE, 0, truth)
        counted = {
            "open": Confusion.of(guess, truth, labels, ignore=IGNORE),
            "released": Confusion.of(guess, background, labels, ignore=None),
        }
        found[f"{offset:+.1f}"] = {name: one.counts.tolist() for name, one in counted.items()}
    return found


def goca_figures(counts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By offset the mean IoU of the background and all classes that are there, in [0, 1]; see `goca_counts`."""
    return {
        offset: {
            name: Confusion(np.sum([one[offset][name] for one in counts], axis=0)).mean_iou()
            for name in ("open", "released")
        }
        for offset in counts[0]
    }
