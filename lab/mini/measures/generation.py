"""Generated pictures judged by the oracles: is what was asked there, and do the oracles agree on what is?"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lab.mini.oracle import classes_alone, label_maps, load_oracles
from ovam.evaluate import Confusion
from ovam.mini.scenes import CLASSES, LABELS
from ovam.mini.scenes.captions import with_article
from ovam.mini.scenes.splits import HELD_OUT
from ovam.mini.scenes.vocabulary import CLASS_WORDS

LEAST_AREA, LEAST_SHOWN = 0.04, 0.01  # of the pixels: to be what a picture is of, and to be in it at all
_THING_LABELS = [LABELS[name] for name in CLASSES]
_NAMED = {name: re.compile(rf"\b({'|'.join(map(re.escape, words))})\b") for name, words in CLASS_WORDS.items()}


def one_object_prompts(count: int) -> list[tuple[str, str]]:
    """(prompt, class): every class in turn, "a photograph of a dog"."""
    return [(f"a photograph of {with_article(name)}", name) for name in (CLASSES[i % 20] for i in range(count))]


def two_object_prompts(count: int) -> list[tuple[str, tuple[str, str]]]:
    """(prompt, classes): pairs that training may show, drawn with a fixed seed."""
    random = np.random.default_rng(0)
    held_out = frozenset().union(*HELD_OUT.values())
    pairs: list[tuple[str, tuple[str, str]]] = []
    while len(pairs) < count:
        first, second = (str(name) for name in random.choice(CLASSES, 2, replace=False))
        if frozenset((first, second)) not in held_out:
            pairs.append((f"a photograph of {with_article(first)} and {with_article(second)}", (first, second)))
    return pairs


def class_shares(labels: np.ndarray) -> np.ndarray:
    """Share of each picture that each class takes: (picture, 20)."""
    return np.stack([(labels == number).mean((1, 2)) for number in _THING_LABELS], axis=1)


def classes_in(caption: str) -> tuple[str, ...]:
    """Classes that a caption names by their own name or a synonym, in the vocabulary's order."""
    return tuple(name for name, pattern in _NAMED.items() if pattern.search(caption))


def measure_generation(
    pictures: Mapping[str, np.ndarray], named: Mapping[str, Sequence[tuple[str, ...]]]
) -> dict[str, Any]:
    """How often the asked classes are what oracle A sees, and how well the oracles agree.

    Args:
        pictures: (picture, height, width, 3) uint8 of the sets "simple", "pairs" and "captions".
        named: Classes that each prompt of each set names.

    Returns:
        `one_object`: share of *simple* pictures whose largest class is the asked one, with at least 4 % of the
        pixels; `by_class` the same for each class; `two_objects`: share of *pairs* where both take at least 1 %;
        `captions`: share of the classes named by *captions* that take at least 1 %; all by oracle A. `by_oracle`:
        the same by each oracle alone; `agreement` of the oracles.
    """
    seen = {
        name: {kind: label_maps(oracle, images) for kind, images in pictures.items()}
        for name, oracle in load_oracles().items()
    }
    judged = {name: _judged(labels, named) for name, labels in seen.items()}
    first, second = seen.values()
    together = (np.concatenate(list(labels.values())) for labels in (first, second))
    return judged["a"] | {
        "by_oracle": judged,
        "agreement": {kind: agreement(first[kind], second[kind]) for kind in first} | {"all": agreement(*together)},
    }


def _judged(labels: Mapping[str, np.ndarray], named: Mapping[str, Sequence[tuple[str, ...]]]) -> dict[str, Any]:
    """How often the asked classes are what one oracle sees, from its labels of each set."""
    shares = {kind: class_shares(seen) for kind, seen in labels.items()}
    right: dict[str, list[bool]] = {}
    for share, (name,) in zip(shares["simple"], named["simple"], strict=True):
        right.setdefault(name, []).append(CLASSES[int(share.argmax())] == name and share.max() >= LEAST_AREA)
    there = {
        kind: [
            [bool(share[CLASSES.index(name)] >= LEAST_SHOWN) for name in names]
            for share, names in zip(shares[kind], named[kind], strict=True)
        ]
        for kind in ("pairs", "captions")
    }
    return {
        "one_object": float(np.mean([ok for found in right.values() for ok in found])),
        "by_class": {name: float(np.mean(found)) for name, found in right.items()},
        "two_objects": float(np.mean([all(found) for found in there["pairs"]])),
        "captions": float(np.mean([ok for found in there["captions"] for ok in found])),
    }


def agreement(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """How well two oracles agree: IoU of one's labels with the other's, mean over labels that either uses.

    Args:
        first: Labels by oracle A, (picture, height, width).
        second: Labels by oracle B.

    Returns:
        `classes`: over the 20 classes and all else as background; `labels`: over classes and grounds; `ignored`:
        the share of pixels on whose class, or background, they differ, which are ignored wherever they are the truth.
    """
    mine, other = classes_alone(first), classes_alone(second)
    return {
        "classes": float(np.nanmean(Confusion.of(mine, other, len(CLASSES) + 1, ignore=None).iou())),
        "labels": float(np.nanmean(Confusion.of(first, second, len(LABELS) + 1, ignore=None).iou())),
        "ignored": float((mine != other).mean()),
    }
