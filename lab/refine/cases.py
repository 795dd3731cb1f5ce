"""Scenes as the product sees them: encoded once with the empty prompt, with the maps of all class words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.progress import track

from lab.mini.measures.words import SMALLEST, scenes_of
from ovam.maps.result import AttentionMaps
from ovam.mini.scenes import CLASSES, Scene, Split
from ovam.mini.scenes.slices import slices
from ovam.tracing.encode import encode


@dataclass(frozen=True)
class Case:
    """One scene.

    Attributes:
        number: Its index among the scenes looked at.
        truth: By class that is there to be seen, its pixels (height, width).
        labels: Number of the class at each pixel, from 1; 0 is background (height, width).
        slices: By class, the slices it belongs to.
        maps: Maps of all class words, each asked by itself, with the image's self-attention.
    """

    number: int
    truth: dict[str, np.ndarray]
    labels: np.ndarray
    slices: dict[str, tuple[str, ...]]
    maps: AttentionMaps


def cases(pipe: Any, split: Split, count: int, *, least: int = 1, classes: Sequence[str] = CLASSES) -> Iterator[Case]:
    """Encode the first `count` scenes of a split that show at least `least` classes, and ask for all class words."""
    for number, scene in enumerate(track(scenes_of(split, count, least=least), f"{split} scenes", count)):
        trace = encode(pipe, scene.image, seed=number, self_attention=True)
        names = sorted({thing.name for thing in scene.objects})
        truth = {name: mask for name in names if (mask := scene.mask(name)).sum() >= SMALLEST}
        labels = np.zeros(scene.image.shape[:2], dtype=np.int64)
        for name in names:
            labels[scene.mask(name)] = CLASSES.index(name) + 1
        of = {name: _slices(scene, name) for name in truth}
        yield Case(number, truth, labels, of, trace.maps(list(classes)))


def _slices(scene: Scene, name: str) -> tuple[str, ...]:
    return tuple(sorted({each for thing in scene.objects if thing.name == name for each in slices(scene, thing)}))
